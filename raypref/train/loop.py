"""The loop, once, for every method and every runtime."""

import time
from abc import ABC, abstractmethod

from raypref.train.checkpoint import TrainState
from raypref.train.chunk import evaluation_chunks, rollout_chunks
from raypref.train.experiment import Experiment
from raypref.train.learner import UpdateReport
from raypref.train.runtime import Runtime
from raypref.train.scorer import Judgement


class Observer(ABC):
    """Whoever keeps the results. The loop computes, observers write and show."""

    @abstractmethod
    def updated(self, iteration: int, report: UpdateReport, pairs: int, seconds: float) -> None:
        """After an iteration; `pairs` and `seconds` (evaluations on the way included) are totals of the run."""

    @abstractmethod
    def pictured(self, iteration: int, judgements: list[Judgement]) -> None:
        """After an evaluation of the policy with `iteration` iterations behind it."""

    @abstractmethod
    def checkpointed(self, state: TrainState) -> None:
        """At each point that a run can be resumed from."""


def train(experiment: Experiment, runtime: Runtime, observer: Observer, resumed: TrainState | None = None) -> None:
    """Runs an experiment to its last iteration, from the start or from a resumed state.

    Rollouts of iteration i use policy version max(0, i - lag) whatever the runtime, the number of workers, or their
    speed; with lag 1 they are asked for one iteration early, so that samplers work while the learner learns.
    """
    first = 0 if resumed is None else resumed.iteration
    pairs, seconds = (0, 0.0) if resumed is None else (resumed.pairs, resumed.seconds)
    if resumed is None:
        observer.pictured(0, runtime.picture(evaluation_chunks(experiment), 0))
    else:
        runtime.restore(resumed.learner)
    last, requested = experiment.run.iterations, first
    started = time.perf_counter() - seconds
    for iteration in range(first, last):
        while requested <= min(iteration + experiment.run.lag, last - 1):
            runtime.request(requested, rollout_chunks(experiment, requested), experiment.policy_version(requested))
            requested += 1
        report = runtime.update(iteration)
        pairs, seconds, done = pairs + report.pairs, time.perf_counter() - started, iteration + 1
        observer.updated(iteration, report, pairs, seconds)
        if done == last or (experiment.evaluate.every and done % experiment.evaluate.every == 0):
            observer.pictured(done, runtime.picture(evaluation_chunks(experiment), done))
        if done == last or done % experiment.checkpoint.every == 0:
            observer.checkpointed(TrainState(done, pairs, seconds, runtime.state()))
