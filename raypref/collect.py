"""Rollouts of the pretrained model, or of a run's policy, and a reward become a preference set: what offline methods
train on."""

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from raypref.checks import ConfigError
from raypref.config import load_experiment, resolved, to_train_on
from raypref.data.pick_a_pic import GROUP, Pair, write_pairs
from raypref.data.preference_source import DataConfig
from raypref.lock import locked
from raypref.run import newest_state, start_runtime
from raypref.run_directory import RunDirectory
from raypref.train.checkpoint import TrainState
from raypref.train.chunk import pair_chunks
from raypref.train.drawing import Plain
from raypref.train.experiment import Experiment
from raypref.train.runtime import Runtime
from raypref.train.scorer import Judgement

SETTINGS = "_collect.json"
"""What the pairs of a folder depend on. Readers of Parquet pass over names that begin like this."""
CHANGEABLE = ("cluster", "reward", "sampling", "run.prompts", "run.seed")
"""What may be set for pairs of a run's policy: nothing that it depends on."""


@dataclass(frozen=True)
class Collected:
    """What a folder holds so far."""

    pairs: int
    ties: int
    unscored: int
    """Pairs of which a picture has no score: they have no label."""


def load(path: Path, overrides: Sequence[str]) -> tuple[Experiment, TrainState | None]:
    """What a config draws with, which is the pretrained model; or a run directory, which is the policy of its newest
    good checkpoint. Of a run `overrides` may set what CHANGEABLE names.

    Raises:
        ConfigError: where that cannot work, or the run has no checkpoint.
    """
    if not path.is_dir():
        return load_experiment(path, overrides), None
    directory = RunDirectory.open(path)
    experiment = to_train_on(directory.changed(overrides, CHANGEABLE))
    state = newest_state(directory, experiment)
    if state is None:
        raise ConfigError(f"run directory {path}: it has no checkpoint to draw with")
    return experiment, state


def collect(
    experiment: Experiment, folder: Path, pairs: int, tell: Callable[[int], None], policy: TrainState | None = None
) -> Collected:
    """Writes `pairs` pairs as Parquet files into a folder; those that are there already are kept, though they be more.
    `tell` is called with how many are done.

    A pair is two pictures of one training prompt by the policy, or without one by the pretrained model, drawn as for an
    evaluation; the one with the larger training reward is preferred. What is drawn depends on seed and number alone, so
    it is the same in parts, and a larger set begins with the smaller.

    Raises:
        ConfigError: where the folder is a file or holds pairs of other settings, or another process is writing them.
    """
    if pairs < 1:
        raise ConfigError(f"--pairs {pairs}: use 1 or more")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a new folder")
    if not experiment.prompts:
        raise ConfigError("run.prompts is missing: name what pictures are drawn for")
    judges = replace(experiment.evaluate, rewards=(), reward_settings={})  # they have no say
    experiment = replace(experiment, data=DataConfig(), evaluate=judges)
    with locked(folder, "preference set", "folder"):
        _claim(folder, _settings(experiment, policy))
        todo = [part for part in _parts(pairs) if not _is_done(folder, part)]
        if todo:
            _draw(experiment, policy, folder, todo, tell)
    return collected(folder)


def _draw(
    experiment: Experiment, policy: TrainState | None, folder: Path, parts: list[range], tell: Callable[[int], None]
) -> None:
    runtime = start_runtime(experiment)
    try:
        runtime.restore(None if policy is None else policy.learner)
        for part in parts:
            write_pairs(_file(folder, part), _drawn(experiment, policy, runtime, part))
            tell(part.stop)
    finally:
        runtime.close()


def collected(folder: Path) -> Collected:
    """Counts what a folder holds."""
    from pyarrow import parquet

    columns, files = ["has_label", "label_0", "label_1"], sorted(folder.glob("*.parquet"))
    rows = [row for file in files for row in parquet.read_table(file, columns=columns).to_pylist()]
    labelled = [row for row in rows if row["has_label"]]
    ties = sum(row["label_0"] == row["label_1"] for row in labelled)
    return Collected(len(rows), ties, len(rows) - len(labelled))


def _parts(pairs: int) -> list[range]:
    return [range(start, min(start + GROUP, pairs)) for start in range(0, pairs, GROUP)]


def _file(folder: Path, part: range) -> Path:
    return folder / f"pairs-{part.start:07d}.parquet"


def _is_done(folder: Path, part: range) -> bool:
    """Whether a part is there. Where more pairs are asked for than before, the last is not: it is drawn again, for its
    pictures' bits depend on those beside them."""
    from pyarrow import parquet

    file = _file(folder, part)
    return file.exists() and parquet.read_metadata(file).num_rows >= len(part)


def _settings(experiment: Experiment, policy: TrainState | None) -> dict[str, Any]:
    tables = resolved(experiment)
    run = {key: tables["run"][key] for key in ("seed", "chunk_size", "num_threads")}
    prompts = hashlib.blake2b("\n".join(experiment.prompts).encode(), digest_size=16).hexdigest()
    weights = None if policy is None else policy.learner.deployed()
    return {"policy": weights, "prompts": prompts, "run": run} | {
        name: tables[name] for name in ("model", "sampling", "reward")
    }


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    file, text = folder / SETTINGS, json.dumps(settings, indent=2) + "\n"
    if file.exists():
        if file.read_text(encoding="utf-8") != text:
            raise ConfigError(f"{folder} holds pairs of other settings, see {file}; name another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _drawn(experiment: Experiment, policy: TrainState | None, runtime: Runtime, part: range) -> Iterator[Pair]:
    run = experiment.run.name
    model = experiment.model.path if policy is None else f"{run} after {policy.iteration} iterations"
    # Plain trajectories: the method has no say, and nothing is scored on the way.
    for judgement in runtime.picture(pair_chunks(experiment, part), Plain()):
        for first in range(0, len(judgement.prompts), 2):
            yield _pair(judgement, first, experiment.reward.name, model)


def _pair(judgement: Judgement, first: int, reward: str, model: str) -> Pair:
    one, other = (float(score) for score in judgement.scores[reward][first : first + 2])
    return Pair(
        pictures=(_png(judgement.images[first]), _png(judgement.images[first + 1])),
        caption=judgement.prompts[first],
        label=label(one, other),
        models=(model, model),
        scores=(one, other),
    )


def label(one: float, other: float) -> tuple[float, float] | None:
    """Of two scores: the larger is preferred, equal ones are a tie, and without both nobody can tell."""
    if math.isnan(one) or math.isnan(other):
        return None
    share = 0.5 if one == other else float(one > other)
    return share, 1 - share


def _png(image: UInt8[Tensor, "height width 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, "PNG")
    return file.getvalue()
