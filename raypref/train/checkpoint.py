"""Checkpoints: folders of safetensors and JSON that name their own checksums, here or in an object store."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raypref.core.weights import Manifest, Weights
from raypref.train.folder import Folder
from raypref.train.reference import ReferenceState
from raypref.train.state import LearnerState

FILES = ("state.safetensors", "state.json")
SUMS = "SHA256SUMS"
"""Written last, in the format of `sha256sum`: a folder without it is no checkpoint."""


class CorruptCheckpoint(ValueError):
    """A file of a checkpoint is not what was written."""


@dataclass(frozen=True)
class TrainState:
    """Where a run stands between two iterations."""

    iteration: int
    """Iterations done; the policy's version."""
    pairs: int
    """Pairs trained on so far."""
    seconds: float
    """Wall-clock seconds from the first rollout on, evaluations and checkpoints on the way included."""
    base_diversity: float
    """Of the base model's held-out pictures: what the diversity guard compares with."""
    learner: LearnerState


def write_checkpoint(folder: Folder, state: TrainState, keep: int) -> Folder:
    """Writes `folder/ITERATION`, then deletes all but the newest `keep`, and what a kill left unfinished.

    One that is complete stays: the same iteration of a run is the same bits.
    """
    target = folder / f"{state.iteration:06d}"
    if SUMS in target.names():
        return target
    contents = dict(zip(FILES, (save(_tensors(state)), json.dumps(_facts(state)).encode()), strict=True))
    for name, content in contents.items():
        target.write(name, content)
    target.write(SUMS, "".join(f"{_digest(content)}  {name}\n" for name, content in contents.items()).encode())
    kept = checkpoints(folder)[-keep:]
    for old in _numbered(folder):
        if old not in kept:
            _discard(old)
    return target


def checkpoints(folder: Folder) -> list[Folder]:
    """The complete checkpoints in a folder, oldest first."""
    return [path for path in _numbered(folder) if SUMS in path.names()]


def discard_after(folder: Folder, iteration: int) -> None:
    """Deletes what is newer than an iteration, complete or not."""
    for path in _numbered(folder):
        if iteration_of(path) > iteration:
            _discard(path)


def iteration_of(path: Folder) -> int:
    """The iteration that a checkpoint's name says."""
    return int(path.path.rpartition("/")[2])


def newest_good(folder: Folder, told: Callable[[str], None]) -> TrainState | None:
    """The newest checkpoint that is what was written; `told` hears of every bad one before it. None: there is none.

    Raises:
        CorruptCheckpoint: where there are some and all are bad.
    """
    bad = []
    for path in reversed(checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except CorruptCheckpoint as problem:
            if SUMS not in path.names():
                continue  # a run that goes on has deleted it meanwhile
            told(f"a checkpoint is passed over: {problem}")
            bad.append(str(problem))
    if bad:
        raise CorruptCheckpoint(f"every checkpoint in {folder} is bad: {'; '.join(bad)}")
    return None


def read_checkpoint(path: Folder) -> TrainState:
    """Reads what `write_checkpoint` wrote.

    Raises:
        CorruptCheckpoint: naming the file that is not.
    """
    contents = _verified(path)
    try:
        return _state(load(contents["state.safetensors"]), json.loads(contents["state.json"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise CorruptCheckpoint(f"{path}: it is no state of a run: {problem!r}") from None


def _verified(path: Folder) -> dict[str, bytes]:
    """The files of a checkpoint. Names come from here, never from the checkpoint: nothing else is opened."""
    sums = _read(path, SUMS).decode(errors="replace").splitlines()
    contents = {name: _read(path, name) for name in FILES}
    for name, content in contents.items():
        if f"{_digest(content)}  {name}" not in sums:
            raise CorruptCheckpoint(f"{path / name} ({len(content)} bytes) does not have the checksum in {SUMS}")
    return contents


def _read(path: Folder, name: str) -> bytes:
    try:
        return path.read(name)
    except FileNotFoundError:
        raise CorruptCheckpoint(f"{path / name} is missing") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _numbered(folder: Folder) -> list[Folder]:
    """Complete or not, oldest first."""
    return sorted((folder / name for name in folder.names() if re.fullmatch(r"[0-9]{6,}", name)), key=iteration_of)


def _discard(path: Folder) -> None:
    """Deletes a checkpoint, checksums first: half deleted, it is none."""
    names = path.names()
    if SUMS in names:
        path.delete(SUMS)
    if names:
        path.delete_all()


def _tensors(state: TrainState) -> dict[str, Tensor]:
    tensors = dict(state.learner.optimizer)
    tensors |= {f"weights/{version}": weights.flat for version, weights in state.learner.history.items()}
    if state.learner.reference.flat is not None:
        tensors["reference"] = state.learner.reference.flat
    if state.learner.average is not None:
        tensors["average"] = state.learner.average
    return tensors


def _facts(state: TrainState) -> dict[str, Any]:
    reference = state.learner.reference
    return {
        "iteration": state.iteration,
        "pairs": state.pairs,
        "seconds": state.seconds,
        "base_diversity": state.base_diversity,
        "reference": {"version": reference.version, "updates": reference.updates},
        "gradient_level": state.learner.gradient_level,
        "manifests": {version: asdict(weights.manifest) for version, weights in state.learner.history.items()},
    }


def _state(tensors: dict[str, Tensor], facts: dict[str, Any]) -> TrainState:
    history = {}
    for version, fields in facts["manifests"].items():
        manifest = Manifest(
            fields["version"],
            tuple(fields["names"]),
            tuple(tuple(shape) for shape in fields["shapes"]),
            fields["checksum"],
        )
        history[int(version)] = Weights(manifest, tensors.pop(f"weights/{version}"))
    reference = ReferenceState(flat=tensors.pop("reference", None), **facts["reference"])
    average = tensors.pop("average", None)
    learner = LearnerState(history, tensors, reference, facts["gradient_level"], average)
    return TrainState(facts["iteration"], facts["pairs"], facts["seconds"], facts["base_diversity"], learner)
