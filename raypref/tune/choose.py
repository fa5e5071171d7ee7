"""Which settings of a study are best, compared after equally many iterations and over all their seeds."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from raypref.core.counted import counted
from raypref.evaluate.heldout import Evaluation
from raypref.tune.directory import Trial
from raypref.tune.space import Point
from raypref.tune.study import Study

SEED = "run.seed"


@dataclass(frozen=True)
class Contender:
    """One combination of settings: the trials that have it, one a seed."""

    point: Point
    """Without the seed."""
    trials: tuple[Trial, ...]
    iteration: int
    """The last evaluation that all its trials have had."""

    def evaluations(self) -> list[Evaluation]:
        """Of each trial, after `iteration` iterations."""
        return [found for trial in self.trials if (found := trial.at(self.iteration))]

    def heldout(self, metric: str) -> float:
        """The mean held-out reward over trials; minus infinity where one was not scored."""
        means = [evaluation.rewards[metric].mean for evaluation in self.evaluations()]
        return -math.inf if any(map(math.isnan, means)) else sum(means) / len(means)

    def describe(self, metric: str) -> str:
        """On one line."""
        seeds = f", mean of {len(self.trials)} seeds" if len(self.trials) > 1 else ""
        figure = f"{metric} {self.heldout(metric):.4f}"
        return f"{shown(self.point)}: {figure} after {counted(self.iteration, 'iteration')}{seeds}"


def contenders(study: Study, trials: Sequence[Trial]) -> list[Contender]:
    """Combinations of settings that have come furthest, best first.

    Ray Tune's own choice takes each trial's last figure, and so prefers one that was stopped early to those that went
    on and paid for it. Here only those are compared whose every seed has come as far as any combination's, and by what
    was measured there. One that was stopped early has lost to others at equal iterations before.
    """
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[_settings(trial.point)].append(trial)
    planned = Counter(_settings(point) for point in (study.points() or {}).values())
    found = [
        Contender(_without_seed(group[0].point), tuple(group), min(trial.evaluations[-1].iteration for trial in group))
        for settings, group in groups.items()
        if len(group) >= planned[settings] and all(trial.evaluations for trial in group)
    ]
    furthest = max((each.iteration for each in found), default=0)
    ahead = [each for each in found if each.iteration == furthest]
    return sorted(ahead, key=lambda each: each.heldout(study.metric), reverse=True)


def _settings(point: Point) -> str:
    """What trials that differ by their seeds have in common. A trial's own config has 1.0 where the study says 1."""
    plain = {address: float(value) if type(value) is int else value for address, value in point.items()}
    return json.dumps(_without_seed(plain))


def _without_seed(point: Point) -> Point:
    return {address: value for address, value in point.items() if address != SEED}


def shown(point: Point) -> str:
    """For people: numbers in four digits."""
    return ", ".join(f"{address} = {figure(value)}" for address, value in point.items()) or "the config as it is"


def figure(value: object) -> str:
    """A setting in four digits; up to a million without an exponent."""
    return f"{float(f'{value:.4g}'):g}" if isinstance(value, float) else str(value)
