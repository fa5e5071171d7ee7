"""Means of what a loss reports, over an iteration and by recorded step."""

from collections import defaultdict

from jaxtyping import Float, Int
from torch import Tensor


class Tally:
    """Sums metrics row by row; a NaN says that a metric does not apply to a row, and does not count."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        self._counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, steps: Int[Tensor, " B"], metrics: dict[str, Float[Tensor, " B"]]) -> None:
        """The metrics of one micro-batch, whose rows were recorded at `steps`."""
        for name, values in metrics.items():
            values = values.double().cpu()
            for step in steps.unique():
                here = values[(steps == step) & ~values.isnan()]
                self._sums[name][int(step)] += float(here.sum())
                self._counts[name][int(step)] += len(here)

    def means(self) -> dict[str, float]:
        """Metric -> its mean over all rows."""
        return {
            name: sum(sums.values()) / count if (count := sum(self._counts[name].values())) else float("nan")
            for name, sums in self._sums.items()
        }

    def means_by_step(self) -> dict[str, dict[int, float]]:
        """Metric -> step -> its mean there, for steps where it applies."""
        return {
            name: {step: sums[step] / self._counts[name][step] for step in sorted(sums) if self._counts[name][step]}
            for name, sums in self._sums.items()
        }
