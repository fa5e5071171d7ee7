"""The loop, once, for every method and every runtime."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from raypref.core.pictures import diversity
from raypref.train.attendance import Attendance
from raypref.train.checkpoint import TrainState
from raypref.train.chunk import evaluation_chunks, rollout_chunks
from raypref.train.experiment import Experiment, GuardAction
from raypref.train.guards import GuardStop, demanded, picture_alarms
from raypref.train.learner import UpdateReport
from raypref.train.runtime import MAX_LOSSES, LearnerLost, Runtime
from raypref.train.scorer import Judgement


class Observer(ABC):
    """Whoever keeps the results. The loop computes, observers write and show."""

    @abstractmethod
    def attended(self, iteration: int, attendance: Attendance) -> None:
        """Before `updated`: who has worked since this was last told, with `iteration` iterations behind them."""

    @abstractmethod
    def updated(self, iteration: int, report: UpdateReport, pairs: int, seconds: float) -> None:
        """After an iteration; `pairs` and `seconds` (evaluations on the way included) are totals of the run."""

    @abstractmethod
    def pictured(self, iteration: int, judgements: list[Judgement]) -> None:
        """After an evaluation of the policy with `iteration` iterations behind it."""

    @abstractmethod
    def alarmed(self, iteration: int, alarms: dict[str, int], action: GuardAction) -> None:
        """After guards were tripped in an iteration, before `action` is taken."""

    @abstractmethod
    def checkpointed(self, state: TrainState) -> None:
        """At each point that a run can be resumed from."""

    @abstractmethod
    def trained(self, export: Callable[[Path], None]) -> None:
        """After the last iteration; `export` writes the policy into a folder, for diffusers."""

    @abstractmethod
    def learner_lost(self, iteration: int, why: str) -> None:
        """After the learner was lost: what came after `iteration` iterations will be computed, and told, again."""


def train(experiment: Experiment, runtime: Runtime, observer: Observer, resumed: TrainState | None = None) -> None:
    """Runs an experiment to its last iteration, from the start or from a resumed state.

    Rollouts of iteration i use policy version max(0, i - lag) whatever the runtime, the number of workers, or their
    speed; with lag 1 they are asked for one iteration early, so that samplers work while the learner learns.

    A learner that is lost goes on from the last finished iteration. Whatever ends the run, that iteration is
    checkpointed first.

    Raises:
        GuardStop: where a guard that is set to stop was tripped; the last checkpoint is from before.
        LearnerLost: where one iteration has cost MAX_LOSSES learners.
    """
    state, kept, writing = resumed, -1 if resumed is None else resumed.iteration, False
    try:
        for state in _finished(experiment, runtime, observer, resumed):
            if state.iteration % experiment.checkpoint.every == 0 or state.iteration == experiment.run.iterations:
                writing = True
                observer.checkpointed(state)
                writing, kept = False, state.iteration
    except BaseException as ended:
        failed = writing and isinstance(ended, Exception)  # and would fail again; a signal is no Exception
        if state is not None and kept < state.iteration and not failed:
            _keep(observer, state, ended)
        raise


def _keep(observer: Observer, state: TrainState, ended: BaseException) -> None:
    """The checkpoint of a run that ends too soon; should it fail too, why the run ends is still what counts."""
    try:
        observer.checkpointed(state)
    except Exception as problem:
        raise ended from problem


def _finished(
    experiment: Experiment, runtime: Runtime, observer: Observer, resumed: TrainState | None
) -> Iterator[TrainState]:
    """Every state that a run comes through, and the export at its end, whatever becomes of its learner."""
    state, losses, done = resumed, list[str](), False
    while not done:
        try:
            runtime.restore(None if state is None else state.learner)
            state = state or TrainState(0, 0, 0.0, math.nan, runtime.state())
            iterations = _iterations(experiment, runtime, observer, state)
            for state in iterations:
                losses.clear()
                yield state
            observer.trained(runtime.export)
            done = True
        except LearnerLost as lost:
            losses.append(str(lost))
            iteration = 0 if state is None else state.iteration
            if len(losses) == MAX_LOSSES:
                told = "; ".join(losses)
                raise LearnerLost(f"iteration {iteration} has cost {MAX_LOSSES} learners: {told}") from lost
            observer.learner_lost(iteration, str(lost))


def _iterations(
    experiment: Experiment, runtime: Runtime, observer: Observer, state: TrainState
) -> Iterator[TrainState]:
    """The state after the base model's evaluation, where that is to do, and after every iteration that is left."""
    if math.isnan(state.base_diversity):
        base = runtime.picture(evaluation_chunks(experiment))
        observer.pictured(0, base)
        state = replace(state, base_diversity=_diversity(experiment, base))
        yield state
    last, requested = experiment.run.iterations, state.iteration
    started = time.perf_counter() - state.seconds
    for iteration in range(state.iteration, last):
        while requested <= min(iteration + experiment.run.lag, last - 1):
            runtime.request(requested, rollout_chunks(experiment, requested), experiment.policy_version(requested))
            requested += 1
        report = runtime.update(iteration)
        pairs, seconds, done = state.pairs + report.pairs, time.perf_counter() - started, iteration + 1
        observer.attended(done, runtime.attendance())
        observer.updated(iteration, report, pairs, seconds)
        _judge(experiment, runtime, observer, state, done, report.alarms)
        state = TrainState(done, pairs, seconds, state.base_diversity, runtime.state())
        yield state


def _judge(
    experiment: Experiment, runtime: Runtime, observer: Observer, before: TrainState, done: int, alarms: dict[str, int]
) -> None:
    """Pictures the policy where it is time to, and does what the guards are set to do."""
    every, judged = experiment.evaluate.every, None
    if done == experiment.run.iterations or (every and done % every == 0):
        judged = runtime.picture(evaluation_chunks(experiment))
        each = experiment.evaluate.images_per_prompt
        alarms = alarms | picture_alarms(experiment.guard, judged, each, before.base_diversity)
    action = demanded(experiment.guard, alarms)
    if alarms:
        observer.alarmed(done, alarms, action)
    if action == "roll_back":
        runtime.roll_back(before.learner, done)
        if judged is not None:  # what is kept of version `done` shall be of the policy that now bears the number
            judged = runtime.picture(evaluation_chunks(experiment))
    if judged is not None:
        observer.pictured(done, judged)
    if action == "stop":
        raise GuardStop(
            f"iteration {done}: {', '.join(f'{name} ({count}x)' for name, count in alarms.items())}. The guard is set "
            f"to stop; the last good state is that of iteration {before.iteration}. Go on with `raypref resume` and "
            "the guard set to count or roll_back, or start again with a lower optimizer.learning_rate"
        )


def _diversity(experiment: Experiment, judged: list[Judgement]) -> float:
    images = torch.cat([part.images for part in judged])
    return diversity(images.unflatten(0, (-1, experiment.evaluate.images_per_prompt)))
