"""The trials of a study on Ray Tune, each in a placement group of its own. Imported where Ray Tune is installed."""

import json
import math
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.schedulers import AsyncHyperBandScheduler

from raypref.checks import ConfigError
from raypref.cluster.connect import connect
from raypref.cluster.reserved import GroupBundle, group_bundles
from raypref.evaluate.heldout import Evaluation
from raypref.progress import say
from raypref.train.guards import GuardStop
from raypref.train.runtime import MAX_LOSSES
from raypref.train.stopped import StoppedRun
from raypref.tune.directory import StudyDirectory
from raypref.tune.progress import HELDOUT, UNSCORED, Progress
from raypref.tune.space import Axis, Point
from raypref.tune.study import Study
from raypref.tune.trial import run_trial

SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a study as it ends a run
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a config are from where the user is
    "RAY_AIR_NEW_OUTPUT": "0",  # which tells of its own folders; the lines of `Progress` are enough
}


def run_trials(study: Study, directory: StudyDirectory) -> dict[str, str]:
    """Runs every trial that has not ended yet. Returns why some have failed, by name.

    Raises:
        NoRoom: where none got a place for cluster.timeout seconds.
        NoCluster: where there is no Ray.
    """
    os.environ |= SETTINGS
    bundles = group_bundles(study.base.cluster, study.base.run.num_threads)
    at_once = max(1, study.settings.max_concurrent_trials)
    owns_cluster = connect(study.base, at_once * sum(resources.get("CPU", 0.0) for resources, _ in bundles))
    try:
        results = _tuner(study, directory, bundles).fit()
    finally:
        if owns_cluster:
            ray.shutdown()
    return {Path(found.path).name: reason(found.error) for found in results if found.error}


def reason(error: Exception) -> str:
    """Why a trial has failed, on one line: of what the run says of itself the first, which names it."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    line = next(iter(str(cause).strip().splitlines()), "")
    return line if isinstance(cause, ConfigError | StoppedRun | RayError) else f"{type(cause).__name__}: {line}"


def run_point(config: dict[str, Any], path: Path, points: dict[str, Point] | None) -> None:
    """What Ray Tune calls in a process of its own, again after an interruption, until it returns."""
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address  # as in a job, whose cluster a run joins
    name = tune.get_context().get_trial_name()
    directory = StudyDirectory(path)
    study = directory.study()

    def tell(evaluation: Evaluation) -> None:
        heldout = evaluation.rewards[study.metric].mean
        tune.report({"iteration": evaluation.iteration, HELDOUT: UNSCORED if math.isnan(heldout) else heldout})

    try:
        run_trial(directory.experiment(study, name, points[name] if points else config), tell)
    except GuardStop as stop:  # a finding about these settings, which would only be found again
        say(str(stop))


def _tuner(study: Study, directory: StudyDirectory, bundles: list[GroupBundle]) -> tune.Tuner:
    points, place = study.points(), directory.ray_tune
    resources, labels = [each for each, _ in bundles], [each for _, each in bundles]
    group = tune.PlacementGroupFactory(resources, bundle_label_selector=labels)
    runnable = tune.with_resources(partial(run_point, path=directory.path, points=points), group)
    if has_state(place):
        return tune.Tuner.restore(str(place), runnable, resume_errored=True)
    # Without a state of Ray Tune's, which a kill at the very start prevents, trials still go on from their directories.
    shutil.rmtree(place, ignore_errors=True)
    return tune.Tuner(
        runnable,
        param_space=_space(study, points),
        tune_config=tune.TuneConfig(
            metric=HELDOUT,
            mode="max",
            num_samples=1 if points else study.settings.num_samples,
            max_concurrent_trials=study.settings.max_concurrent_trials or None,
            search_alg=None if points else _optuna(study),
            scheduler=_scheduler(study),
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name=place.name,
            storage_path=str(place.parent),
            failure_config=tune.FailureConfig(max_failures=MAX_LOSSES - 1),
            callbacks=[Progress(study.metric, study.base.cluster.timeout, resources)],
            verbose=0,
        ),
    )


def has_state(place: Path) -> bool:
    """Whether Ray Tune has left a state that it can go on from. It writes in place: of one that a kill has torn, which
    it would take for none and begin again with nothing to search, the one before is taken."""
    for file in place.glob("experiment_state-*.json"):
        try:
            json.loads(file.read_text())
        except ValueError:
            file.unlink()
    return any(place.glob("experiment_state-*.json"))


def _space(study: Study, points: dict[str, Point] | None) -> dict[str, Any]:
    """The names of all points where they are known before, else what they are drawn from."""
    if points:
        return {"trial": tune.grid_search(list(points))}
    return {axis.address: _domain(axis) for axis in study.axes}


def trial_name(trial: Any) -> str:
    """The name of a trial, which is that of its run directory."""
    return trial.config.get("trial", trial.trial_id)


def _scheduler(study: Study) -> AsyncHyperBandScheduler | None:
    if study.settings.scheduler == "none":
        return None
    return AsyncHyperBandScheduler(
        time_attr="iteration",
        max_t=study.base.run.iterations,
        grace_period=study.grace_period,
        reduction_factor=study.settings.reduction_factor,
        stop_last_trials=False,  # a run that has reached its end has its weights and report still to write
    )


def _domain(axis: Axis) -> Any:
    """In Ray Tune's words, for a search algorithm that draws by itself."""
    low, high = axis.values[0], axis.values[-1]
    kinds = {
        "uniform": lambda: tune.uniform(low, high),
        "loguniform": lambda: tune.loguniform(low, high),
        "integers": lambda: tune.randint(low, high + 1),
        "choice": lambda: tune.choice(list(axis.values)),
    }
    return kinds[axis.kind]()


def _optuna(study: Study) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(seed=study.settings.seed)
