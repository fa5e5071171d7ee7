"""Figures of finished runs: curves, values at a common budget, means with confidence intervals."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.claims.arms import SEEDS

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t for a two-sided 95 % interval, by the number of seeds."""

Run = dict[str, Any]
Results = dict[str, dict[int, Run]]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and half the width of its 95 % confidence interval."""

    value: float
    half: float

    def __str__(self) -> str:
        return self.to(3)

    def to(self, digits: int) -> str:
        """As text, with so many digits after the point."""
        return f"{self.value:+.{digits}f} ± {self.half:.{digits}f}"

    def verdict(self) -> str:
        """Of a difference that is claimed to be positive."""
        if self.value - self.half > 0:
            return "shows"
        return "the opposite shows" if self.value + self.half < 0 else "not decided"


def read(folder: Path) -> Results:
    """Arm -> seed -> run, of everything that `measure` has finished."""
    results: Results = {}
    for path in sorted(folder.glob("*-[0-9].json")):
        run = json.loads(path.read_text())
        results.setdefault(run["arm"], {})[run["seed"]] = run
    return results


def mean(values: Sequence[float]) -> Mean:
    """Over seeds, that are taken as independent draws."""
    count = len(values)
    center = sum(values) / count
    spread = (sum((value - center) ** 2 for value in values) / (count - 1)) ** 0.5
    return Mean(center, T_95[count] * spread / count**0.5)


def over_seeds(results: Results, arm: str, figure: Callable[[Run], float]) -> Mean:
    """A figure's mean over the seeds of an arm."""
    return mean([figure(run) for run in results[arm].values()])


def difference(results: Results, first: str, second: str, figure: Callable[[Run], float]) -> Mean:
    """The mean over seeds of figure(first) - figure(second), a pair a seed: prompts and first noise are common."""
    return mean([figure(results[first][seed]) - figure(results[second][seed]) for seed in SEEDS])


def reward_at(run: Run, axis: str, budget: float) -> float:
    """Gain in held-out reward where a run had spent `budget` of "samples", "guided_evaluations", "iteration" or "kl";
    linear between evaluations, the last value beyond them.

    Of the KL it is linear in the root: a small move changes the reward by its length, the KL by the square of it.
    """
    at, gain = spent(run, axis), gains(run)
    if axis == "kl":
        at, budget = [level**0.5 for level in at], budget**0.5
    for place in range(1, len(at)):
        if at[place] >= budget > at[place - 1]:
            share = (budget - at[place - 1]) / (at[place] - at[place - 1])
            return gain[place - 1] + share * (gain[place] - gain[place - 1])
    return gain[-1]


def spent(run: Run, axis: str) -> list[float]:
    """The budget at each evaluation; KL as the highest so far, for it may fall again."""
    values = [evaluation[axis] for evaluation in run["evaluations"]]
    return [max(values[: place + 1]) for place in range(len(values))]


def gains(run: Run, reward: str = "colorfulness") -> list[float]:
    """Held-out reward at each evaluation, less the base model's."""
    values = [evaluation["rewards"][reward]["mean"] for evaluation in run["evaluations"]]
    return [value - values[0] for value in values]


def metric(run: Run, name: str, iteration: int) -> float:
    """A training metric, averaged over the two iterations up to `iteration`: the first update is too small to tell."""
    rows = [row[name] for row in run["rows"] if iteration - 1 <= row["iteration"] <= iteration]
    return sum(rows) / len(rows)
