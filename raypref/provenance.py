"""What exported weights say of themselves, in the metadata of their file: where they come from, without the place."""

import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from raypref.config import resolved
from raypref.methods.base import Method
from raypref.methods.regression import RegressionMethod
from raypref.models.lora_layout import with_metadata
from raypref.run_directory import package_versions
from raypref.train.experiment import Experiment
from raypref.train.folder import replace_file

ELSEWHERE = ("cluster", "checkpoint")
"""Sections that say where a run was, and not what was computed."""
OF_THE_PLACE = ("name", "output_dir", "prompts", "heldout_prompts", "wandb_project")
"""Keys of [run] that do."""


IN_A_FILE = re.compile(r"\.py:\w+$|^[A-Za-z]:\\")
"""A reward's function in a file; a path of Windows."""


OWN = {"none": "", "finished": " and the policy's own", "on_the_way": " and the policy's own trajectories"}
"""What a method on labelled pictures learns from beside them, by `RegressionMethod.own`."""


def trained_on(experiment: Experiment) -> str:
    """What the policy learned from: its reward; or the labelled pictures of a set, which a reward only judges."""
    method = experiment.method
    if not isinstance(method, RegressionMethod):
        return experiment.reward.name
    return f"labelled pictures of {public(experiment.data.path)}{OWN[method.own]}"


def is_online(method: Method) -> bool:
    """Whether the policy learns from what it draws itself."""
    return not isinstance(method, RegressionMethod) or method.own != "none"


def provenance(experiment: Experiment) -> dict[str, str]:
    """Method, reward or labelled set, base model, config, prompts and versions. Of paths and addresses only the last
    name is told, and of the machine and the day nothing: the same run is the same file."""
    model = experiment.model
    told = {
        "method": experiment.method.name,
        "reward": "" if experiment.data.path else experiment.reward.name,
        "data": public(experiment.data.path),
        "iterations": str(experiment.run.iterations),
        "base_model": public(model.path),
        "revision": model.revision,
        "lora_weights": public(model.lora_weights),
        "config": json.dumps(settings(experiment), sort_keys=True),
        "prompts_sha256": hashlib.sha256("\n".join(experiment.prompts).encode()).hexdigest(),
        "versions": json.dumps(package_versions()),
    }
    return {f"raypref.{name}": value for name, value in told.items() if value}


def settings(experiment: Experiment) -> dict[str, Any]:
    """The resolved config, as far as it may leave the machine."""
    tables = {name: table for name, table in resolved(experiment).items() if name not in ELSEWHERE}
    tables["run"] = {key: value for key, value in tables["run"].items() if key not in OF_THE_PLACE}
    return _public(tables)


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_public(inner) for inner in value]
    return public(value) if isinstance(value, str) else value


def public(name: str) -> str:
    """A name as it is, but of a path of this machine, of an URL, or of a function in a file, the last part."""
    if "://" in name:
        return PurePosixPath(urlsplit(name).path).name
    is_place = name.startswith(("/", "~", ".", "\\")) or os.path.exists(name) or IN_A_FILE.search(name) is not None
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_place else name


def sign(weights: Path, experiment: Experiment) -> None:
    """Adds the provenance to a .safetensors file."""
    replace_file(weights, with_metadata(weights.read_bytes(), provenance(experiment)))
