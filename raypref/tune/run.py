"""A study from end to end: `raypref tune`, and `raypref resume` of one."""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from raypref.checks import ConfigError, check_checkpoint_folder, check_outlives_job
from raypref.cluster.job_folder import in_job_folder
from raypref.lock import locked
from raypref.progress import say, warn
from raypref.run_directory import replace_text
from raypref.signals import ending_in_order
from raypref.tune.choose import contenders
from raypref.tune.directory import StudyDirectory
from raypref.tune.report import table, write_best, write_study_report
from raypref.tune.study import Study

WIDE = 400
"""Characters: figures are not cut off where the terminal, or a job's log, is narrower than their table."""
NEEDED = ("pandas", "pyarrow", "tensorboardX")
"""What Ray Tune cannot be imported without, or writes its events with."""


def tune(study: Study, overwrite: bool = False) -> Path:
    """Runs every trial of a study, and writes what came out. Returns its directory.

    Raises:
        ConfigError: where a study of that name exists and may not be overwritten, a package is missing, another
            process is at it, or what comes out would go away with the job that this is.
    """
    directory = StudyDirectory.planned(study)
    if in_job_folder():
        check_outlives_job(study.base)
    with locked(directory.path):
        _check_installed(study)
        check_checkpoint_folder(study.base)
        _clear(directory, study, overwrite)
        directory.create(study)
        return _run(directory)


def resume(path: Path, overrides: Sequence[str] = ()) -> Path:
    """Goes on with a study that was interrupted: trials from their checkpoints, and those that have not begun.

    Raises:
        ConfigError: where there is none, another process is at it, or there are `overrides`: its trials would no longer
            be comparable.
    """
    if overrides:
        raise ConfigError(f"{' '.join(overrides)}: a study goes on as it was; leave the overrides out")
    directory = StudyDirectory(path.resolve())
    study = directory.study()
    with locked(directory.path):
        _check_installed(study)
        return _run(directory)


def _clear(directory: StudyDirectory, study: Study, overwrite: bool) -> None:
    path = directory.path
    if path.exists() and not overwrite:
        raise ConfigError(
            f"run.name = {study.base.run.name!r}: {path} exists; continue it with `raypref resume {path}`, choose "
            "another run.name, or pass --overwrite"
        )
    if path.exists() and not StudyDirectory.is_one(path):
        raise ConfigError(
            f"run.name = {study.base.run.name!r}: {path} is no study; remove it or choose another run.name"
        )
    shutil.rmtree(path, ignore_errors=True)


def _check_installed(study: Study) -> None:
    needed = [*NEEDED, *(["optuna"] if study.settings.search_alg == "optuna" else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"[tune]: {', '.join(missing)} not installed, which Ray Tune needs here; run `pip install raypref[tune]`"
        )


@ending_in_order()
def _run(directory: StudyDirectory) -> Path:
    from raypref.tune.trials import run_trials  # an optional extra

    study = directory.study()
    failures = run_trials(study, directory)
    replace_text(directory.failures, json.dumps(failures, indent=2) + "\n")
    for name, why in failures.items():
        warn(f"trial {name} has failed: {why}")
    trials = directory.trials(study)
    Console(width=max(Console().width, WIDE)).print(table(study, trials))
    ahead = contenders(study, trials)
    if ahead:
        write_best(study, directory, ahead[0])
        say(f"best: {ahead[0].describe(study.metric)}")
        say(f"its config: {directory.best}")
    write_study_report(directory)
    say(f"report: {directory.report}")
    return directory.path
