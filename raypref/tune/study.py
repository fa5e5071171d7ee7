"""A study as a value: an experiment, what is searched in it, and how."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raypref.checks import ConfigError
from raypref.config import Table, apply_overrides, checked_experiment, config_tables, fill
from raypref.registry import nearest
from raypref.train.experiment import Experiment, require
from raypref.tune.space import RANGES, Axis, Point, draw, read_axes, words

FIXED = (
    *("run.name", "run.output_dir", "run.iterations", "run.prompts", "run.heldout_prompts"),
    *("evaluate", "checkpoint", "cluster"),
)
"""What no study can search: trials would not be compared by the same figure, or have no directory of their own."""
LOOKED_AT = 16
"""Points that are checked where the search algorithm draws its own."""


@dataclass(frozen=True)
class TuneConfig:
    """`[tune]`: how a study searches, in Ray Tune's words; every other key is a setting that is searched."""

    num_samples: int = 12
    """Points that are drawn. Each is a trial, or where there are grids, one at each of their combinations; of grids
    alone, every combination is tried once."""
    search_alg: Literal["random", "optuna"] = "random"
    """random: all points are drawn from the seed before the first trial. optuna: later trials learn from earlier ones;
    needs `pip install raypref[tune]`."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: trials that are among the worse are stopped early, at equal iterations. none: all run to their end."""
    grace_period: int = 0
    """asha: iterations that every trial may run. 0: up to the first evaluation."""
    reduction_factor: float = 3.0
    """asha: one in so many trials goes on at each of its looks, which are so many times further apart."""
    metric: str = ""
    """The held-out reward by which trials are compared, larger being better. Empty: the training reward."""
    max_concurrent_trials: int = 0
    """0: as many as the cluster has room for."""
    seed: int = 0
    """Of the points."""

    def __post_init__(self) -> None:
        require(self.num_samples >= 1, "num_samples", self.num_samples, "use 1 or more.")
        require(self.grace_period >= 0, "grace_period", self.grace_period, "use 0 (the first evaluation) or more.")
        require(
            self.reduction_factor > 1, "reduction_factor", self.reduction_factor, "use a number above 1, such as 3."
        )
        require(self.max_concurrent_trials >= 0, "max_concurrent_trials", self.max_concurrent_trials,
                "use 0 (as many as there is room for) or more.")  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What `raypref tune` does."""

    tables: Table
    """The config without [tune]."""
    folder: Path
    """Where its prompt files are looked for first."""
    base: Experiment
    """The experiment with nothing searched."""
    settings: TuneConfig
    axes: tuple[Axis, ...]

    @property
    def metric(self) -> str:
        """The held-out reward that decides."""
        return self.settings.metric or self.base.reward.name

    @property
    def grace_period(self) -> int:
        """asha: iterations that every trial may run."""
        return self.settings.grace_period or self.base.evaluate.every

    def points(self) -> dict[str, Point] | None:
        """Name of a trial -> its point; None where the search algorithm draws them one by one."""
        if self.settings.search_alg != "random":
            return None
        points = list(draw(self.axes, self.settings.num_samples, self.settings.seed))
        return {f"{number:0{len(str(len(points) - 1))}d}": point for number, point in enumerate(points)}

    def experiment(self, point: Point, *overrides: str) -> Experiment:
        """The experiment at a point.

        Raises:
            ConfigError: where it could not run there.
        """
        try:
            return checked_experiment(apply_overrides(self.tables, [*words(point), *overrides]), self.folder)
        except ConfigError as problem:
            raise ConfigError(f"[tune] tries {' '.join(words(point))}: {problem}") from None


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and checks a study: the file's own values, the ends of every range, and every point that is known before.

    Raises:
        ConfigError: for anything that would fail later.
    """
    tables = config_tables(path, overrides)
    table = tables.pop("tune", None)
    if not isinstance(table, dict):
        raise ConfigError(
            f"config file {path}: it has no [tune] section; add one that says what to search, such as "
            'tune."method.psi_lambda" = {loguniform = [0.1, 1e4]}, or train it: `raypref train`'
        )
    base = checked_experiment(tables, path.parent)
    fields = {field.name: field for field in dataclasses.fields(TuneConfig)}
    options = {key: value for key, value in table.items() if key in fields}
    searched = {key: value for key, value in table.items() if key not in fields}
    for key, value in searched.items():
        if not isinstance(value, dict) and "." not in key:
            raise ConfigError(f"tune.{key} = {value!r}: [tune] has no key {key!r}{nearest(key, fields)}")
    study = Study(tables, path.parent, base, fill(TuneConfig(), options, "tune"), read_axes(searched))
    _check_options(study)
    _check_points(study)
    return study


def _check_options(study: Study) -> None:
    settings, base = study.settings, study.base
    if not study.axes:
        raise ConfigError('[tune] searches nothing; add a setting, such as "method.psi_lambda" = {grid = [1, 10, 100]}')
    for axis in study.axes:
        if any(f"{axis.address}.".startswith(f"{fixed}.") for fixed in FIXED):
            raise ConfigError(
                f'tune."{axis.address}": a study cannot search {", ".join(FIXED)}; its trials share them. Leave it out'
            )
        if axis.kind == "grid" and settings.search_alg != "random":
            raise ConfigError(
                f'tune."{axis.address}" = {{grid = {list(axis.values)}}}: search_alg = {settings.search_alg!r} draws '
                "its own points; use choice, or search_alg = 'random'"
            )
    judged = (base.reward.name, *base.evaluate.rewards)
    if study.metric not in judged:
        raise ConfigError(f"tune.metric = {study.metric!r}: it is no held-out reward of this run{nearest('', judged)}")
    rewards = [axis.address for axis in study.axes if axis.address.startswith("reward.")]
    if rewards and study.metric not in base.evaluate.rewards:
        raise ConfigError(
            f'tune."{rewards[0]}": trials with different training rewards cannot be compared by theirs; set '
            "tune.metric to one of evaluate.rewards"
        )
    iterations, first = base.run.iterations, study.grace_period
    if settings.scheduler == "asha" and not 0 < first < iterations:
        raise ConfigError(
            f"tune.scheduler = 'asha': it first compares trials after {first} iterations (grace_period, or else "
            f"evaluate.every), of run.iterations = {iterations}; choose something between, or scheduler = 'none'"
        )


def _check_points(study: Study) -> None:
    known = study.points()
    points = list(known.values()) if known else list(draw(study.axes, LOOKED_AT, study.settings.seed))
    edges = [points[0] | {axis.address: edge} for axis in study.axes if axis.kind in RANGES for edge in axis.edges()]
    for point in [*edges, *points]:
        study.experiment(point)
