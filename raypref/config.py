"""Words to values: a TOML file and `section.key=value` overrides become a checked Experiment, or one clear error."""

import dataclasses
import inspect
import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from raypref import methods, rewards
from raypref.checks import ConfigError, check_changed, check_experiment, check_prompts
from raypref.data.preference_source import DataConfig
from raypref.data.prompts import read_prompts, without_heldout
from raypref.data.source import PromptSource
from raypref.function_files import located
from raypref.methods.base import Method
from raypref.models.base import ModelConfig
from raypref.registry import named_classes, nearest
from raypref.rewards.base import Reward
from raypref.train.experiment import (
    CheckpointConfig,
    ClusterConfig,
    EvaluateConfig,
    Experiment,
    GuardConfig,
    OptimizerConfig,
    ReferenceConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
)

Table = dict[str, Any]
Backend = Literal["raypref", "package"]
FOR_ALL_REWARDS = ("name", "also", "also_settings", "backend")
"""Keys of [reward] that are no reward's own settings."""
PACKAGED = "_package"
"""What follows a reward's name where its authors' package computes it: `reward.backend = "package"` asks for that."""
Section = TypeVar("Section")

SECTIONS: dict[str, type] = {
    "run": RunConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "sampling": SamplingConfig,
    "method": Method,
    "reward": RewardConfig,
    "optimizer": OptimizerConfig,
    "reference": ReferenceConfig,
    "guard": GuardConfig,
    "evaluate": EvaluateConfig,
    "checkpoint": CheckpointConfig,
    "cluster": ClusterConfig,
}

ReadPrompts = Callable[[PromptSource, Path], tuple[str, ...]]
PROMPTS = ("prompts", "heldout_prompts")
"""The keys of [run] that name a source of prompts, and the fields of Experiment that hold them."""


def load_experiment(
    path: Path,
    overrides: Sequence[str] = (),
    check: Callable[[Experiment], None] = check_experiment,
    read: ReadPrompts = read_prompts,
) -> Experiment:
    """Reads an experiment, and checks it, to be run on this machine unless another check is given. No model is loaded.
    A [tune] section, which is a study's, is passed over.

    Raises:
        ConfigError: for anything that would fail later.
    """
    tables = config_tables(path, overrides)
    tables.pop("tune", None)
    return checked_experiment(tables, path.parent, check, read)


def config_tables(path: Path, overrides: Sequence[str]) -> Table:
    """The tables of a config that the user wrote, with overrides.

    Raises:
        ConfigError: where it cannot be read, or names a function's file that is not there.
    """
    return located(apply_overrides(read_toml(path), overrides), path.parent)


def checked_experiment(
    tables: Table,
    folder: Path,
    check: Callable[[Experiment], None] = check_experiment,
    read: ReadPrompts = read_prompts,
) -> Experiment:
    """The experiment of a config's tables, checked, without the held-out ones among its training prompts.

    Raises:
        ConfigError: for anything that would fail later.
    """
    experiment = to_train_on(build_experiment(tables, folder, read))
    check(experiment)
    check_prompts(experiment)
    return experiment


def to_train_on(experiment: Experiment) -> Experiment:
    """Without the held-out ones among its training prompts.

    Raises:
        ConfigError: where none is left.
    """
    kept = experiment.prompts
    try:
        if kept:
            kept = without_heldout(kept, experiment.heldout_prompts)
    except ValueError as problem:
        raise ConfigError(f"run.prompts = {str(experiment.run.prompts)!r}: {problem}") from None
    return dataclasses.replace(experiment, prompts=kept, left_out=len(experiment.prompts) - len(kept))


def load_changed(path: Path, overrides: Sequence[str]) -> Experiment:
    """The experiment of a run directory's config, with overrides. It may be judged on prompts that it was trained on.

    Raises:
        ConfigError: for anything that would fail later.
    """
    tables = apply_overrides(read_toml(path), overrides)
    for key in PROMPTS:
        if any(override.partition("=")[0].strip() == f"run.{key}" for override in overrides):
            tables["run"][key] = _from_here(_source(key, tables["run"][key]))
    experiment = build_experiment(tables, path.parent)
    check_changed(experiment)
    return experiment


def _from_here(source: Table) -> Table:
    """A prompt file that the user names is theirs, even where the run directory has one of that name."""
    file = Path(str(source.get("path", "")))
    return source | {"path": str(file.resolve())} if file.is_file() else source


def read_toml(path: Path) -> Table:
    """The file's tables."""
    if not path.is_file():
        near = sorted(path.parent.glob("*.toml")) if path.parent.is_dir() else []
        hint = nearest(path.name, [found.name for found in near])
        raise ConfigError(f"config file {path}: there is no such file{hint}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"config file {path}: not readable as UTF-8 text: {problem}") from None
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"config file {path}: not valid TOML: {problem}") from None


def apply_overrides(tables: Table, overrides: Sequence[str]) -> Table:
    """`section.key=value` with TOML values; a bare word is a string."""
    merged: Table = json.loads(json.dumps(tables, default=str))
    for override in overrides:
        address, equals, text = override.partition("=")
        *parents, key = address.strip().split(".")
        if not equals or not parents:
            raise ConfigError(f"override {override!r}: write section.key=value, such as method.beta=0.2")
        table = merged
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
        table[key] = _toml_value(text.strip())
    return merged


def build_experiment(tables: Table, folder: Path, read: ReadPrompts = read_prompts) -> Experiment:
    """Fills every section and reads the prompts; `folder` is where a config's prompt files are looked for first."""
    for name in tables:
        if name not in SECTIONS:
            raise ConfigError(f"unknown section [{name}]{nearest(name, SECTIONS)}")
        if not isinstance(tables[name], dict):
            raise ConfigError(f"{name} = {tables[name]!r}: {name} is a section; write [{name}] and its keys below")
    named = tables.get("run", {})
    tables = tables | {"run": named | {key: _source(key, named[key]) for key in PROMPTS if key in named}}
    filled = {
        name: fill(kind(), tables.get(name, {}), name)
        for name, kind in SECTIONS.items()
        if name not in ("method", "reward")
    }
    run: RunConfig = filled["run"]
    reward, evaluate = _reward(tables.get("reward", {})), filled["evaluate"]
    watched = [name for name in evaluate.rewards if name not in (reward.name, *reward.also)]
    # An override may ask for other rewards than a run's config has settings of.
    _check_known(evaluate.reward_settings, named_classes(rewards, Reward), "evaluate.reward_settings")
    settings = _settings_of(watched, evaluate.reward_settings, "evaluate.reward_settings")
    filled["evaluate"] = dataclasses.replace(evaluate, reward_settings=settings)
    return Experiment(
        method=_method(tables.get("method", {})),
        reward=reward,
        prompts=() if filled["data"].path and not run.prompts.path else _prompts("prompts", run.prompts, folder, read),
        heldout_prompts=_prompts("heldout_prompts", run.heldout_prompts, folder, read),
        **filled,
    )


def _source(key: str, value: Any) -> Table:
    """A source of prompts as a table; a bare string is short for one."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        raise ConfigError(f'run.{key} = {value!r}: name where the prompts are, as in "animals:train"')
    return _plain(PromptSource.named(value))


def _prompts(key: str, source: PromptSource, folder: Path, read: ReadPrompts) -> tuple[str, ...]:
    try:
        return read(source, folder)
    except ValueError as problem:
        raise ConfigError(f"run.{key} = {str(source)!r}: {problem}") from None


def load_reward(name: str, settings: Sequence[str]) -> Reward:
    """A reward by itself, from its name and `key=value` words.

    Raises:
        ConfigError: where a setting is wrong, or weights are missing.
    """
    table = apply_overrides({"reward": {"name": name}}, [f"reward.{word}" for word in settings])["reward"]
    config = _reward(table)
    try:
        return named_classes(rewards, Reward)[config.name](**config.settings)
    except (OSError, ValueError) as problem:
        raise ConfigError(str(problem)) from problem


def fill(default: Section, table: Mapping[str, Any], where: str) -> Section:
    """`default` with the given keys replaced: a partial nested table keeps the other defaults."""
    fields = {field.name: field for field in dataclasses.fields(default)}  # type: ignore[arg-type]
    changes: Table = {}
    for key, value in table.items():
        if key not in fields:
            raise ConfigError(f"{where}.{key} = {value!r}: [{where}] has no key {key!r}{nearest(key, fields)}")
        if dataclasses.is_dataclass(getattr(default, key)):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}.{key} = {value!r}: a table is needed, such as {{candidates = 2}}")
            changes[key] = fill(getattr(default, key), value, f"{where}.{key}")
        else:
            changes[key] = _typed(value, fields[key].type, f"{where}.{key}")
    try:
        return dataclasses.replace(default, **changes)  # type: ignore[type-var]
    except ValueError as problem:
        raise ConfigError(f"{where}.{problem}") from None


def resolved(experiment: Experiment) -> Table:
    """The experiment as tables that `build_experiment` reads back; unset (None) keys are left out."""
    tables = {name: _plain(getattr(experiment, name)) for name in SECTIONS if name not in ("method", "reward")}
    tables["method"] = {"name": experiment.method.name} | _plain(experiment.method)
    reward = experiment.reward
    also = {"also_settings": reward.also_settings} if reward.also_settings else {}
    tables["reward"] = {"name": reward.name, "also": list(reward.also)} | reward.settings | also
    return {name: tables[name] for name in SECTIONS}


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _typed(value: Any, kind: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} = {value}: use a finite number")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as problem:
        reason = problem.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where} = {value!r}: {reason[0].lower()}{reason[1:]}") from None


def _named(known: Mapping[str, Any], section: str, name: object, where: str = "") -> Any:
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{where or section}.name = {name!r}: there is no such {section}{nearest(str(name), known)}")
    return known[name]


def _method(table: Table) -> Method:
    kind = _named(named_classes(methods, Method), "method", table.get("name", "rdpo"))
    return fill(kind(), {key: value for key, value in table.items() if key != "name"}, "method")


def _reward(table: Table) -> RewardConfig:
    known = named_classes(rewards, Reward)
    kind = _named(known, "reward", table.get("name", RewardConfig().name))
    if _typed(table.get("backend", "raypref"), Backend, "reward.backend") == "package":
        kind = _packaged(kind, known)
    also = _typed(table.get("also", ()), tuple[str, ...], "reward.also")
    for name in also:
        _named(known, "reward", name)
    if kind.name in also or len(set(also)) < len(also):
        raise ConfigError(f"reward.also = {list(also)}: a reward is named twice")
    given = _typed(table.get("also_settings", {}), dict[str, dict[str, Any]], "reward.also_settings")
    settings = {key: value for key, value in table.items() if key not in FOR_ALL_REWARDS}
    _check_settings(kind, settings, "reward")
    _check_known(given, also, "reward.also_settings")
    others = _settings_of(also, given, "reward.also_settings")
    return RewardConfig(kind.name, also, _complete(kind.name, settings), others)


def _complete(name: str, settings: Mapping[str, Any]) -> Table:
    """All settings of a reward: a default that a later release changes must not change a run that exists."""
    return named_classes(rewards, Reward)[name].complete(settings, _complete)


def _check_known(given: Mapping[str, Table], known: Sequence[str] | Mapping[str, Any], where: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{where}.{name}: no such reward is asked for{nearest(name, known)}")


def _settings_of(names: Sequence[str], given: Mapping[str, Table], where: str) -> dict[str, Table]:
    """All settings of rewards that are asked for by name; of those that have any."""
    known = named_classes(rewards, Reward)
    for name in (name for name in names if name in known):
        _check_settings(known[name], dict(given.get(name, {})), f"{where}.{name}")
    found = {name: _complete(name, given.get(name, {})) for name in names if name in known}
    return {name: settings for name, settings in found.items() if settings}


def _packaged(kind: type[Reward], known: Mapping[str, type[Reward]]) -> type[Reward]:
    """The reward that computes the same in its authors' package."""
    able = [name for name in known if f"{name}{PACKAGED}" in known]
    if kind.name not in able and not kind.name.endswith(PACKAGED):
        raise ConfigError(
            f"reward.backend = 'package': there is none for {kind.name}, but for {' and '.join(able)}; leave it out"
        )
    return known[f"{kind.name.removesuffix(PACKAGED)}{PACKAGED}"]


def _check_settings(kind: type[Reward], settings: Table, where: str) -> None:
    accepted = inspect.signature(kind).parameters
    for key, value in settings.items():
        if key not in accepted:
            raise ConfigError(f"{where}.{key} = {value!r}: {kind.name} has no setting {key!r}{nearest(key, accepted)}")
        _typed(value, accepted[key].annotation, f"{where}.{key}")
    missing = [name for name, each in accepted.items() if each.default is each.empty and name not in settings]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is missing: {kind.name} needs it")
    known = named_classes(rewards, Reward)
    for number, (name, inner) in enumerate(kind.parts(settings)):
        part = f"{where}.parts[{number}]"
        _check_settings(_named(known, "reward", name, part), inner, f"{part}.settings")


def _plain(section: Any) -> Table:
    """A section as TOML values."""
    table: Table = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            table[field.name] = _plain(value)
        elif value is not None:
            table[field.name] = list(value) if isinstance(value, tuple) else value
    return table
