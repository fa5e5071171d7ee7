"""What is said while trials run, and what ends a study that cannot go on. Imported where Ray Tune is installed."""

import time
from typing import Any

import ray
from ray import tune

from raypref.core.counted import counted
from raypref.progress import say
from raypref.train.stopped import StoppedRun

HELDOUT = "heldout"
"""What a trial reports is called so in Ray Tune."""
UNSCORED = -1e30
"""What is reported where no score is: below all scores. A NaN would neither be stopped nor count, and of infinities
asha's quantiles come to NaN, which stop nobody."""


class NoRoom(StoppedRun):
    """No trial has found a place."""


class Progress(tune.Callback):
    """A line for every evaluation, and patience that ends where no trial finds a place."""

    def __init__(self, metric: str, timeout: float, bundles: list[dict[str, float]]) -> None:
        self.metric, self.timeout, self.bundles = metric, timeout, bundles
        self._waiting_since: float | None = None

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if any(trial.status == "RUNNING" for trial in trials) or all(trial.is_finished() for trial in trials):
            self._waiting_since = None
            return
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since > self.timeout:
            raise NoRoom(
                f"no trial has found a place in {self.timeout:g} s. Each asks for a placement group of {self.bundles}; "
                f"the cluster has {ray.cluster_resources()}, of which free: {ray.available_resources()}. Ask for less "
                "in [cluster], or add nodes, and `raypref resume` the study"
            )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        say(f"trial {trial} starts")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        heldout = "not scored" if result[HELDOUT] == UNSCORED else f"{result[HELDOUT]:.4f}"
        say(f"trial {trial}: {self.metric} {heldout} after {counted(result['iteration'], 'iteration')}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ended = 1 + sum(each.is_finished() for each in trials if each is not trial)
        say(f"trial {trial} has ended, {ended} of {len(trials)} that have begun or wait")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        say(f"trial {trial} has failed")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_waiting_since": None}  # another process's clock
