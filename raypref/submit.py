"""A run as a job of a Ray cluster: what travels with it, and the command that is run there."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import tomli_w

import raypref
from raypref.checks import ConfigError, check_outlives_job
from raypref.cluster.jobs import Job
from raypref.function_files import travelling
from raypref.run_directory import portable, write_prompts
from raypref.train.experiment import Experiment

CONFIG = "config.toml"
COMMAND = ("python", "-m", "raypref.cli")
"""Not `raypref`: that script is only there where the package is installed."""
PACKAGE = Path(raypref.__file__).parent
VERSION = {"raypref": raypref.__version__}


def training_job(
    experiment: Experiment, folder: Path, files: Sequence[Path] = (), overwrite: bool = False, send_code: bool = False
) -> Job:
    """The job that trains an experiment from the start. Into `folder`, which is to travel, go the resolved config, the
    prompts, and copies of `files`, relative paths that settings name.

    Raises:
        ConfigError: where the run's results would go away with the job, or a file is not there.
    """
    check_outlives_job(experiment)
    write_prompts(experiment, folder)
    (folder / CONFIG).write_text(tomli_w.dumps(travelling(portable(experiment), files)))
    _copy(files, folder)
    command = (*COMMAND, "train", CONFIG, *(["--overwrite"] if overwrite else []))
    about = {"method": experiment.method.name, "reward": experiment.reward.name, "model": experiment.model.path}
    return Job(experiment.run.name, command, folder, _packages(send_code), about | VERSION)


def resuming_job(
    run: Path, folder: Path, overrides: Sequence[str] = (), files: Sequence[Path] = (), send_code: bool = False
) -> Job:
    """The job that continues a run whose directory the cluster's head sees; `folder` and `files` as above.

    Raises:
        ConfigError: where that is not an absolute path, or a file is not there.
    """
    if not run.is_absolute():
        raise ConfigError(f"run directory {run}: a job has a working folder of its own; name an absolute path")
    _copy(files, folder)
    return Job(run.name, (*COMMAND, "resume", str(run), *overrides), folder, _packages(send_code), VERSION)


def _packages(send_code: bool) -> tuple[Path, ...]:
    return (PACKAGE,) if send_code else ()


def _copy(files: Sequence[Path], folder: Path) -> None:
    for file in files:
        if file.is_absolute() or ".." in file.parts or not file.is_file():
            raise ConfigError(f"--file {file}: name one below the working directory; the job finds it under that name")
        target = folder / file
        if target.exists():
            raise ConfigError(f"--file {file}: a file of that name travels anyway, made of the config; rename yours")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
