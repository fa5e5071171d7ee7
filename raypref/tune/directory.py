"""The directory of a study: its config, its trials, which are run directories, and what came out."""

import copy
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from raypref.checks import ConfigError
from raypref.config import Table, read_toml, resolved
from raypref.evaluate.heldout import Evaluation
from raypref.run_directory import RunDirectory, portable, replace_text, write_prompts
from raypref.train.experiment import Experiment
from raypref.tune.space import Point, words
from raypref.tune.study import Study, load_study


@dataclass(frozen=True)
class Trial:
    """One run of a study, as far as it has come."""

    name: str
    point: Point
    evaluations: tuple[Evaluation, ...]
    """Oldest first."""
    kl: dict[int, float]
    """Iterations done -> KL to the reference of the last of them."""
    fate: str
    """How it ended, in a few words."""

    def at(self, iteration: int) -> Evaluation | None:
        """The evaluation after so many iterations."""
        return next((found for found in self.evaluations if found.iteration == iteration), None)

    def kl_at(self, iteration: int) -> float:
        """KL to the reference after so many iterations; of the base model 0."""
        return self.kl.get(iteration, math.nan) if iteration else 0.0


class StudyDirectory:
    """Paths and files of one study."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "study.toml"
        self.failures = path / "failures.json"
        self.best = path / "best.toml"
        self.report = path / "report.html"
        self.ray_tune = path / "ray_tune"

    @classmethod
    def planned(cls, study: Study) -> "StudyDirectory":
        """Where the study will be."""
        return cls(RunDirectory.planned(study.base).path.resolve())

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Whether a folder is a study's, and no run's."""
        return cls(path).config.is_file()

    def create(self, study: Study) -> None:
        """Makes the folder, with all that its trials need: whole, or not at all."""
        unfinished = StudyDirectory(self.path.with_name(f".{self.path.name}.{os.getpid()}"))
        shutil.rmtree(unfinished.path, ignore_errors=True)
        unfinished.path.mkdir(parents=True)
        write_prompts(study.base, unfinished.path)
        searched = {axis.address: {axis.kind: list(axis.values)} for axis in study.axes}
        replace_text(unfinished.config, tomli_w.dumps(_carried(study) | {"tune": vars(study.settings) | searched}))
        os.replace(unfinished.path, self.path)

    def study(self) -> Study:
        """The study that this directory was made for.

        Raises:
            ConfigError: where there is none, or it cannot run here.
        """
        if not self.config.is_file():
            raise ConfigError(f"study {self.path}: it holds no study.toml; name a folder that `raypref tune` made")
        return load_study(self.config)

    def experiment(self, study: Study, name: str, point: Point) -> Experiment:
        """A trial's experiment: its run directory is in this one.

        Raises:
            ConfigError: where it could not run.
        """
        # No further samplers: there is room for none in a trial's placement group.
        place = {"run.name": name, "run.output_dir": str(self.path), "cluster.max_samplers": 0}
        if study.base.checkpoint.folder:  # where other studies may have trials of that name
            place["checkpoint.folder"] = f"{study.base.checkpoint.folder}/{study.base.run.name}"
        return study.experiment(point, *words(place))

    def trials(self, study: Study) -> list[Trial]:
        """Every trial that has begun, and those that failed before they had a directory, by name."""
        made = [path.parent for path in self.path.glob("*/config.toml") if path.parent.name[0] != "."]
        failures = json.loads(self.failures.read_text()) if self.failures.exists() else {}
        found = {run.path.name: _trial(study, run, failures.get(run.path.name)) for run in map(RunDirectory, made)}
        for name, point in (study.points() or {}).items():
            if name in failures and name not in found:
                found[name] = Trial(name, point, (), {}, failures[name])
        return [found[name] for name in sorted(found)]


def _carried(study: Study) -> Table:
    """The config in its own words, found from the study's folder. What it leaves unsaid stays so: a trial of another
    method or reward has that one's defaults, not those of the config's."""
    tables = copy.deepcopy(study.tables)
    written = resolved(study.base)
    for section, keys in portable(study.base).items():
        moved = {key: value for key, value in keys.items() if value != written[section].get(key)}
        if moved:
            tables[section] = tables.get(section, {}) | moved
    return tables


def _trial(study: Study, run: RunDirectory, failure: str | None) -> Trial:
    tables, rows = read_toml(run.config), run.rows(run.metrics)
    stops = [row for row in run.rows(run.alarms) if row["action"] == "stop"]
    done, planned = rows[-1]["iteration"] if rows else 0, study.base.run.iterations
    if run.summary.exists():
        fate = "finished"
    elif stops:
        fate = f"stopped by the guard after iteration {stops[-1]['iteration']}: {', '.join(stops[-1]['alarms'])}"
    else:
        fate = failure or f"stopped after {done} of {planned} iterations"
    return Trial(
        name=run.path.name,
        point={axis.address: _value(tables, axis.address) for axis in study.axes},
        evaluations=tuple(run.all_evaluations()),
        kl={row["iteration"]: row["kl"] for row in rows},
        fate=fate,
    )


def _value(tables: dict[str, Any], address: str) -> Any:
    value: Any = tables
    for key in address.split("."):
        value = value[key]
    return value
