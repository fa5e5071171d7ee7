"""The run directory: everything a run leaves behind, under fixed names."""

import dataclasses
import importlib.metadata
import json
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from raypref.config import ConfigError, load_changed, resolved
from raypref.evaluate.heldout import Estimate, Evaluation
from raypref.train.checkpoint import checkpoints
from raypref.train.experiment import Experiment

PACKAGES = ("raypref", "torch", "diffusers", "transformers", "peft", "ray", "numpy", "safetensors")
GRID_ROWS = 12


class RunDirectory:
    """Paths and files of one run. Rows are appended as they come; a resumed run first forgets the rows it will redo."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.judged = path / "judged.jsonl"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.lora = path / "lora"
        self.images = path / "images"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def create(cls, experiment: Experiment, overwrite: bool) -> "RunDirectory":
        """A new run directory with the resolved config, the prompts, and the versions of everything.

        Raises:
            ConfigError: where a run of that name exists, unless it may be overwritten.
        """
        directory = cls(Path(experiment.run.output_dir) / experiment.run.name)
        if directory.config.exists() and not overwrite:
            raise ConfigError(
                f"run.name = {experiment.run.name!r}: {directory.path} holds a run; continue it with "
                f"`raypref resume {directory.path}`, choose another run.name, or pass --overwrite"
            )
        if directory.config.exists():
            shutil.rmtree(directory.path)
        directory.images.mkdir(parents=True)
        (directory.path / "prompts.txt").write_text("\n".join(experiment.prompts) + "\n")
        (directory.path / "heldout_prompts.txt").write_text("\n".join(experiment.heldout_prompts) + "\n")
        tables = resolved(experiment)
        tables["run"] |= {"prompts": "prompts.txt", "heldout_prompts": "heldout_prompts.txt"}
        directory.config.write_text(tomli_w.dumps(tables))
        (directory.path / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")
        return directory

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing run directory.

        Raises:
            ConfigError: where there is none.
        """
        directory = cls(path)
        if not directory.config.is_file():
            raise ConfigError(f"run directory {path}: it holds no config.toml; name a folder that `raypref train` made")
        return directory

    def experiment(self, overrides: Sequence[str] = (), allowed: Sequence[str] = ()) -> Experiment:
        """The experiment that this directory was made for, with overrides of what is allowed to change."""
        return load_changed(self.config, overrides, allowed)

    def append(self, file: Path, row: dict[str, Any]) -> None:
        """Adds a JSON line."""
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    def rows(self, file: Path) -> list[dict[str, Any]]:
        """The JSON lines of a file, oldest first."""
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def rewind(self, iteration: int) -> None:
        """Forgets rows later than the state after `iteration` iterations, which a resumed run computes again."""
        for file in (self.metrics, self.evaluations):
            kept = [row for row in self.rows(file) if row["iteration"] <= iteration]
            file.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def all_evaluations(self) -> list[Evaluation]:
        """Every evaluation so far, oldest first."""
        return [
            Evaluation(**row | {"rewards": {name: Estimate(**value) for name, value in row["rewards"].items()}})
            for row in self.rows(self.evaluations)
        ]

    def save_evaluation(self, evaluation: Evaluation, images: UInt8[Tensor, "P n height width 3"]) -> None:
        """Adds an evaluation and its picture grid."""
        self.append(self.evaluations, dataclasses.asdict(evaluation))
        picture_grid(images[:GRID_ROWS]).save(self.grid(evaluation.iteration))

    def save_judgement(self, evaluation: Evaluation, images: UInt8[Tensor, "P n height width 3"]) -> None:
        """Keeps an evaluation that was asked for apart from training: a row in `judged.jsonl`, and its grid."""
        self.append(self.judged, dataclasses.asdict(evaluation))
        picture_grid(images).save(self.images / f"judged-{len(self.rows(self.judged)):03d}.png")

    def grid(self, iteration: int) -> Path:
        """The picture grid of an evaluation: a row a prompt, the same seeds at every iteration."""
        return self.images / f"{iteration:06d}.png"

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        found = checkpoints(self.checkpoints)
        return found[-1] if found else None


def picture_grid(images: UInt8[Tensor, "P n height width 3"]) -> Image.Image:
    """Pictures side by side, a row a prompt."""
    rows, columns, height, width, _ = images.shape
    sheet = images.permute(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    return Image.fromarray(sheet.numpy())


def versions() -> dict[str, str]:
    """What the run was computed with."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | {"python": platform.python_version(), "platform": platform.platform(), "argv": " ".join(sys.argv)}
