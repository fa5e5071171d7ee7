"""Checkpoints: a folder of safetensors and JSON, complete or absent, never half-written."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from raypref.core.weights import Manifest, Weights
from raypref.train.reference import ReferenceState
from raypref.train.state import LearnerState


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


def write_checkpoint(folder: Path, state: TrainState, keep: int) -> Path:
    """Writes `folder/ITERATION` by way of a temporary folder and a rename, then deletes all but the newest `keep`."""
    target = folder / f"{state.iteration:06d}"
    unfinished = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensors = dict(state.learner.optimizer)
    tensors |= {f"weights/{version}": weights.flat for version, weights in state.learner.history.items()}
    reference = state.learner.reference
    if reference.flat is not None:
        tensors["reference"] = reference.flat
    save_file(tensors, unfinished / "state.safetensors")
    facts = {
        "iteration": state.iteration,
        "pairs": state.pairs,
        "seconds": state.seconds,
        "base_diversity": state.base_diversity,
        "reference": {"version": reference.version, "updates": reference.updates},
        "gradient_level": state.learner.gradient_level,
        "manifests": {version: asdict(weights.manifest) for version, weights in state.learner.history.items()},
    }
    (unfinished / "state.json").write_text(json.dumps(facts))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished, target)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def read_checkpoint(path: Path) -> TrainState:
    """Reads what `write_checkpoint` wrote."""
    facts = json.loads((path / "state.json").read_text())
    tensors = load_file(path / "state.safetensors")
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
    learner = LearnerState(history, tensors, reference, facts["gradient_level"])
    return TrainState(facts["iteration"], facts["pairs"], facts["seconds"], facts["base_diversity"], learner)
