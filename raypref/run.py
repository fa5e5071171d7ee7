"""A run from end to end: directory, workers, loop, report. The Python API: `train`, `resume`, `evaluate_run`."""

import json
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from raypref.checks import ConfigError, check_checkpoint_folder, check_outlives_job
from raypref.cluster.job_folder import in_job_folder
from raypref.cluster.runtime import RayRuntime
from raypref.core.counted import counted
from raypref.data.preference_source import DataConfig
from raypref.disk import DiskGuard, DiskStop, writing
from raypref.dry_run import prompts
from raypref.evaluate.heldout import Evaluation, evaluate, pictures
from raypref.lock import locked
from raypref.model_card import write_card
from raypref.prepare import prepare as prepare_set
from raypref.progress import Display, clock, warn
from raypref.provenance import sign
from raypref.report import write_report
from raypref.rewards.environment import requirements
from raypref.run_directory import RunDirectory, replace_text
from raypref.signals import ending_in_order, undisturbed
from raypref.tracking import Tracker
from raypref.train.attendance import Attendance, Change
from raypref.train.build import reward_environments
from raypref.train.checkpoint import (
    CorruptCheckpoint,
    TrainState,
    checkpoints,
    iteration_of,
    newest_good,
    write_checkpoint,
)
from raypref.train.chunk import evaluation_chunks
from raypref.train.experiment import Experiment, GuardAction
from raypref.train.guards import commonest, on_one_line
from raypref.train.learner import UpdateReport
from raypref.train.loop import Observer
from raypref.train.loop import train as train_loop
from raypref.train.runtime import LocalRuntime, Runtime
from raypref.train.scorer import Judgement
from raypref.train.stopped import StoppedRun, Terminated


def start_runtime(experiment: Experiment) -> Runtime:
    """The runtime that `cluster.runtime` names."""
    needed = reward_environments(experiment)
    if needed and experiment.cluster.runtime == "ray":
        warn(
            f"building the environment of {' and '.join(needed)}, on each node that gets a reward worker: a copy of "
            f"the node's own, and {len(requirements(needed.values()))} packages by pip; one to two minutes, or more "
            "where they must be downloaded over a slow network"
        )
    runtimes: dict[str, Callable[[Experiment], Runtime]] = {"ray": RayRuntime, "local": LocalRuntime}
    return runtimes[experiment.cluster.runtime](experiment)


def nothing(evaluation: Evaluation) -> None:
    """What follows from an evaluation, unless it is a trial's."""


def train(
    experiment: Experiment, overwrite: bool = False, on_evaluation: Callable[[Evaluation], None] = nothing
) -> Path:
    """Runs an experiment from the start. Returns its run directory. `on_evaluation` is called with every evaluation.

    Raises:
        ConfigError: where a run of that name exists and may not be overwritten, or another process is at it.
        DiskStop: where the disk refuses to be written to.
    """
    path = RunDirectory.planned(experiment).path
    if in_job_folder():
        check_outlives_job(experiment)
    with locked(path):
        check_checkpoint_folder(experiment)
        RunDirectory.check_free(experiment, overwrite)
        return _run(experiment, path, RunDirectory.create, None, on_evaluation)


RESUMABLE = ("cluster", "checkpoint.every", "checkpoint.keep", "guard", "run.iterations")
"""What may change when a run goes on: nothing that decides numbers already computed."""

REJUDGEABLE = ("cluster", "evaluate", "run.heldout_prompts")
"""What may change when a run is judged again."""


def resume(path: Path, overrides: Sequence[str] = (), on_evaluation: Callable[[Evaluation], None] = nothing) -> Path:
    """Continues a run from its newest good checkpoint, bit for bit, or, where it was ended before the first, from the
    beginning. `overrides` may set what RESUMABLE names; `on_evaluation` is called with every evaluation from there on.

    Raises:
        ConfigError: where there is nothing to continue, an override would change what was computed, or another process
            is at it.
        DiskStop: where the disk refuses to be written to.
    """
    RunDirectory.open(path)  # before a lock is left beside something that is no run directory
    with locked(path):
        return _resume(path, overrides, on_evaluation)


def _resume(path: Path, overrides: Sequence[str], on_evaluation: Callable[[Evaluation], None]) -> Path:
    directory = RunDirectory.open(path)
    experiment = directory.changed(overrides, RESUMABLE)
    planned, asked = directory.experiment().run.iterations, experiment.run.iterations
    extendable = experiment.optimizer.lr_scheduler == "constant"
    if asked != planned and not extendable:
        raise ConfigError(
            f"run.iterations = {asked}: the learning rate of this run falls towards its end at {planned} "
            f"(optimizer.lr_scheduler = {experiment.optimizer.lr_scheduler!r}); keep {planned}, or start a longer run"
        )
    check_checkpoint_folder(experiment)
    state = newest_state(directory, experiment)
    if state is None and directory.rows(directory.metrics):
        raise ConfigError(
            f"run directory {path}: its checkpoints are not in {directory.checkpoints(experiment)}; put them back, or "
            "start again with `raypref train --overwrite`"
        )
    if state is None:
        warn("it has no checkpoint yet: the run begins anew, with the same numbers")
        return _run(experiment, path, lambda _: directory.rewound(experiment, -1), None, on_evaluation)
    if state.iteration >= experiment.run.iterations and directory.summary.exists():
        more = f"ask for more with run.iterations={2 * state.iteration}" if extendable else "start a longer run"
        raise ConfigError(f"run directory {path}: all {state.iteration} iterations are done; {more}")
    return _run(experiment, path, lambda _: directory.rewound(experiment, state.iteration), state, on_evaluation)


def newest_state(directory: RunDirectory, experiment: Experiment) -> TrainState | None:
    """The newest good checkpoint. The user hears which are bad, and which is used instead."""
    bad: list[str] = []
    folder = directory.checkpoints(experiment)
    try:
        state = newest_good(folder, bad.append)
    except CorruptCheckpoint as problem:
        raise ConfigError(
            f"run directory {directory.path}: {problem}; put back a copy of one, or start again with "
            "`raypref train --overwrite`"
        ) from None
    except OSError as problem:
        raise ConfigError(
            f"run directory {directory.path}: its checkpoints in {folder} cannot be read ({problem.strerror})"
        ) from None
    for line in bad:
        warn(line)
    if bad and state is not None:
        warn(f"the checkpoint of iteration {state.iteration} is good, and is used")
    return state


def evaluate_run(path: Path, overrides: Sequence[str] = ()) -> Evaluation:
    """Pictures and judges the policy of a run's newest good checkpoint; adds a row to `judged.jsonl`, keeps the grid.

    `overrides` may set what REJUDGEABLE names.

    Raises:
        ConfigError: where there is no checkpoint, or an override does not concern evaluation.
    """
    directory = RunDirectory.open(path)
    experiment = directory.changed(overrides, REJUDGEABLE)
    state = newest_state(directory, experiment)
    if state is None:
        raise ConfigError(f"run directory {path}: it has no checkpoint to evaluate")
    runtime = start_runtime(replace(experiment, data=DataConfig()))  # nothing is trained on
    try:
        runtime.restore(state.learner)
        judged = runtime.picture(evaluation_chunks(experiment))
    finally:
        runtime.close()
    each = experiment.evaluate.images_per_prompt
    evaluation = evaluate(state.iteration, judged, each)
    directory.save_judgement(evaluation, experiment.heldout_prompts, pictures(judged, each))
    return evaluation


def _run(
    experiment: Experiment,
    path: Path,
    prepare: Callable[[Experiment], RunDirectory],
    state: TrainState | None,
    on_evaluation: Callable[[Evaluation], None],
) -> Path:
    """Raises Terminated, where somebody ends it, with what is left of the run and how to go on."""
    begun: list[RunDirectory] = []

    def begin(experiment: Experiment) -> RunDirectory:
        begun.append(prepare(experiment))
        return begun[0]

    try:
        return _work(experiment, path, begin, state, on_evaluation)
    except Terminated as ending:
        further = _way_on(begun[0], experiment) if begun else " before it had begun; the same command starts it again"
        raise Terminated(ending.signal_number, further) from None


def _way_on(directory: RunDirectory, experiment: Experiment) -> str:
    command = f"raypref {'submit --resume' if in_job_folder() else 'resume'} {directory.path}"
    kept = checkpoints(directory.checkpoints(experiment))
    if not kept:
        return f"; {directory.path} has no checkpoint yet; `{command}` begins anew"
    return f"; {directory.path} has a checkpoint of iteration {iteration_of(kept[-1])}; `{command}` goes on from there"


@ending_in_order()
def _work(
    experiment: Experiment,
    path: Path,
    prepare: Callable[[Experiment], RunDirectory],
    state: TrainState | None,
    on_evaluation: Callable[[Evaluation], None],
) -> Path:
    """Starts workers, then prepares the directory: a run that cannot start leaves what was there untouched."""
    started = time.perf_counter()
    with Display(experiment.run.iterations, 0 if state is None else state.iteration) as display:
        display.say(f"{experiment.method.name} on {experiment.model.path}, reward {experiment.reward.name}")
        display.say(f"prompts: {prompts(experiment)}")
        if state is not None:
            display.say(f"goes on from the checkpoint of iteration {state.iteration}")
        experiment = _with_prepared_set(experiment, display.say)
        display.say(f"starting workers ({experiment.cluster.runtime})")
        runtime = start_runtime(experiment)
        try:
            display.say(f"workers ready after {clock(time.perf_counter() - started)}")
            disk = partial(writing, path, RunDirectory(path).checkpoints(experiment))
            with undisturbed(), disk():
                directory = prepare(experiment)
                recorder = Recorder(experiment, directory, display, state, started, on_evaluation)
            _loop(experiment, runtime, recorder, disk, state)
        finally:
            runtime.close()
        with undisturbed(), disk():
            write_report(directory)
            write_card(directory)
            write_summary(directory)
        display.say(f"trained weights: {directory.exported(experiment)}")
        display.say(f"report: {directory.report.resolve()}")
    return directory.path


def _with_prepared_set(experiment: Experiment, say: Callable[[str], None]) -> Experiment:
    """With the encoded set of labelled pictures, made now or before, if there are any: a run does not depend on where
    they come from once it has begun. The set must lie under one path for all workers."""
    if not experiment.data.path:
        return experiment
    folder = prepare_set(experiment, say).folder.resolve()
    return replace(experiment, data=replace(experiment.data, prepared=str(folder)))


def _loop(
    experiment: Experiment,
    runtime: Runtime,
    recorder: "Recorder",
    disk: Callable[[], AbstractContextManager[None]],
    state: TrainState | None,
) -> None:
    """The loop; a run that stops itself leaves a report, which shows what led there."""
    try:
        try:
            train_loop(experiment, runtime, DiskGuard(recorder, disk), state)
        finally:
            with undisturbed(), disk():
                recorder.close(runtime.attendance())
    except DiskStop:  # no room for a report
        raise
    except StoppedRun:
        with undisturbed(), disk():
            write_report(recorder.directory)
        raise


class Recorder(Observer):
    """Writes what the loop computes into the run directory and onto the display."""

    def __init__(
        self,
        experiment: Experiment,
        directory: RunDirectory,
        display: Display,
        state: TrainState | None,
        started: float,
        on_evaluation: Callable[[Evaluation], None] = nothing,
    ) -> None:
        self.experiment, self.directory, self.display, self.started = experiment, directory, display, started
        self._on_evaluation = on_evaluation
        self._events = Tracker(experiment.run, directory, None if state is None else state.iteration)
        self._seconds = 0.0 if state is None else state.seconds
        earlier = directory.rows(directory.timings)
        self._earlier_wall = earlier[-1]["wall_seconds"] if earlier else 0.0
        self._done, self._samplers = 0 if state is None else state.iteration, 1.0
        if state is not None:
            here = f"process {os.getpid()} on {platform.node()}"
            self.directory.save_change(self._done, Change("resumed", "run", here, ""))

    def attended(self, iteration: int, attendance: Attendance) -> None:
        self._done, self._samplers = iteration, attendance.samplers
        for change in attendance.changes:
            self.directory.save_change(iteration, change)

    def updated(self, iteration: int, report: UpdateReport, pairs: int, seconds: float) -> None:
        done = iteration + 1
        row = report.metrics | {
            "by_step": {
                name: {str(step): value for step, value in means.items()} for name, means in report.by_step.items()
            },
            "alarms": report.alarms,
            "failures": commonest(report.failures),
            "pairs": pairs,
        }
        sync = {"proved": float(report.syncs), "seconds": report.seconds["syncing"]}
        timing = {
            "busy_seconds": report.seconds,
            "sync": sync,
            "samplers": self._samplers,
            "seconds": seconds,
            "wall_seconds": self._earlier_wall + time.perf_counter() - self.started,
        }
        self.directory.append(self.directory.timings, {"iteration": done} | timing)
        self.directory.append(self.directory.metrics, {"iteration": done} | row)
        events = {f"train/{name}": value for name, value in report.metrics.items()}
        events |= {f"sync/{name}": value for name, value in sync.items()}
        self._events.log(done, events)
        name, speed = "reward" if "reward" in report.metrics else "loss", report.pairs / (seconds - self._seconds)
        self.display.updated(done, report.metrics[name], speed, name, self.experiment.method.row_name())
        self._seconds = seconds
        self._failed(done, report.failures)

    def pictured(self, iteration: int, judgements: list[Judgement]) -> None:
        each = self.experiment.evaluate.images_per_prompt
        images, evaluation = pictures(judgements, each), evaluate(iteration, judgements, each)
        self.directory.save_evaluation(evaluation, images)
        figures = {name: estimate.mean for name, estimate in evaluation.rewards.items()}
        figures |= evaluation.accuracy | {
            "diversity": evaluation.diversity,
            "form_diversity": evaluation.form_diversity,
        }
        self._events.log(iteration, {f"heldout/{name}": value for name, value in figures.items()})
        judged_on = self.experiment.judged_on()
        self.display.say(f"{judged_on} after {counted(iteration, 'iteration')}: {describe(evaluation)}")
        self._failed(iteration, evaluation.failures)
        self._on_evaluation(evaluation)

    def _failed(self, iteration: int, failures: dict[str, int]) -> None:
        if failures:
            self.display.say(f"missing scores after {counted(iteration, 'iteration')}: {on_one_line(failures)}")

    def alarmed(self, iteration: int, alarms: dict[str, int], action: GuardAction) -> None:
        self.directory.append(self.directory.alarms, {"iteration": iteration, "alarms": alarms, "action": action})
        self.display.say(f"guard after {counted(iteration, 'iteration')}: {', '.join(alarms)}; action: {action}")

    def checkpointed(self, state: TrainState) -> None:
        write_checkpoint(self.directory.checkpoints(self.experiment), state, self.experiment.checkpoint.keep)

    def trained(self, export: Callable[[Path], None]) -> None:
        export(self.directory.exported(self.experiment))
        if self.experiment.model.train == "lora":
            sign(self.directory.lora_file, self.experiment)

    def learner_lost(self, iteration: int, why: str) -> None:
        self.directory.forget_after(iteration)
        earlier = self.directory.rows(self.directory.timings)
        self._seconds = earlier[-1]["seconds"] if earlier else 0.0
        self._events.forget_after(iteration)
        warn(f"after {counted(iteration, 'iteration')}: {why}; a fresh learner goes on from there")

    def close(self, attendance: Attendance) -> None:
        """With what became of workers since the last iteration."""
        self.attended(self._done, attendance)
        self._events.close()


def describe(evaluation: Evaluation) -> str:
    """An evaluation on one line."""
    facts = [f"{name} {value}" for name, value in evaluation.rewards.items()]
    facts += [f"{name} {share:.2f}" for name, share in evaluation.accuracy.items()]
    facts += [f"diversity {evaluation.diversity:.4f}", f"of form {evaluation.form_diversity:.4f}"]
    if taus := evaluation.tiny_tau_by_step.values():
        facts.append(f"tau of the tiny decoder {min(taus):.2f} to {max(taus):.2f}")
    return ", ".join(facts)


def write_summary(directory: RunDirectory) -> None:
    """The run in one JSON file: every held-out figure before (base) and after (final), with its standard error."""
    experiment, evaluations = directory.experiment(), directory.all_evaluations()
    base, final = evaluations[0], evaluations[-1]
    last, timing = directory.rows(directory.metrics)[-1], directory.rows(directory.timings)[-1]

    def both(read: Callable[[Evaluation], object]) -> dict[str, object]:
        return {"base": read(base), "final": read(final)}

    def reward(name: str) -> dict[str, object]:
        return both(lambda e: e.rewards[name].mean) | {"standard_error": both(lambda e: e.rewards[name].standard_error)}

    names = list(base.rewards)
    summary = {
        "name": experiment.run.name,
        "method": experiment.method.name,
        "reward_name": experiment.reward.name,
        "seed": experiment.run.seed,
        "iterations": final.iteration,
        "reward": reward(experiment.reward.name),
        **{name: reward(name) for name in names if name != experiment.reward.name},
        "diversity": both(lambda e: e.diversity),
        "form_diversity": both(lambda e: e.form_diversity),
        "accuracy": {name: both(lambda e, name=name: e.accuracy.get(name, math.nan)) for name in base.accuracy},  # type: ignore[misc]
        "heldout_pictures": final.prompts * final.images_per_prompt,
        "alarms": sum((Counter(row["alarms"]) for row in directory.rows(directory.alarms)), Counter()),
        "pairs": last["pairs"],
        "training_seconds": timing["seconds"],
        "wall_seconds": timing["wall_seconds"],
    }
    replace_text(directory.summary, json.dumps(summary, indent=2) + "\n")
