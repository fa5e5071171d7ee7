"""The run directory: everything a run leaves behind, under fixed names."""

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

import raypref
from raypref.checks import ConfigError
from raypref.config import PROMPTS, build_experiment, load_changed, read_toml, resolved
from raypref.evaluate.heldout import Estimate, Evaluation
from raypref.models.existing_lora import local_file
from raypref.models.lora_layout import LORA_FILE
from raypref.train.attendance import Change
from raypref.train.checkpoint import discard_after
from raypref.train.experiment import EvaluateConfig, Experiment
from raypref.train.folder import Folder, replace_file

PACKAGES = ("torch", "diffusers", "transformers", "peft", "ray", "numpy", "safetensors")
GRID_ROWS = 12
LOCAL = ("path", "single_file_config", "vae", "tiny_vae", "lora_weights")
"""Settings of [model] that may be local paths."""


class RunDirectory:
    """Paths and files of one run. Rows are appended as they come; a resumed run first forgets the rows it will redo."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.settings = path / "settings.json"
        self.metrics = path / "metrics.jsonl"
        self.timings = path / "timings.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.alarms = path / "alarms.jsonl"
        self.judged = path / "judged.jsonl"
        self.answers = path / "answers.jsonl"
        self.questions = path / "questions"
        self.workers = path / "workers.jsonl"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.lora = path / "lora"
        self.lora_file = self.lora / LORA_FILE
        self.network = path / "network"
        self.images = path / "images"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def planned(cls, experiment: Experiment) -> "RunDirectory":
        """Where the run will be."""
        return cls(Path(experiment.run.output_dir) / experiment.run.name)

    def exported(self, experiment: Experiment) -> Path:
        """Where the trained weights are written for diffusers."""
        return self.lora if experiment.model.train == "lora" else self.network

    def checkpoints(self, experiment: Experiment) -> Folder:
        """Where the run's checkpoints are."""
        chosen = experiment.checkpoint.folder
        return Folder.at(chosen) / experiment.run.name if chosen else Folder.at(self.path / "checkpoints")

    @classmethod
    def check_free(cls, experiment: Experiment, overwrite: bool) -> None:
        """Raises ConfigError where a run of that name exists, unless it may be overwritten."""
        run = cls.planned(experiment)
        path, checkpoints = run.path, run.checkpoints(experiment)
        if path.exists() and not overwrite:
            raise ConfigError(
                f"run.name = {experiment.run.name!r}: {path} exists; continue it with `raypref resume {path}`, choose "
                "another run.name, or pass --overwrite"
            )
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ConfigError(
                f"run.name = {experiment.run.name!r}: {path} is a file or a link; remove it or choose another run.name"
            )
        if experiment.checkpoint.folder and checkpoints.names() and not overwrite:
            raise ConfigError(
                f"checkpoint.folder = {experiment.checkpoint.folder!r}: {checkpoints} holds checkpoints of a run of "
                "that name; choose another run.name, or pass --overwrite"
            )

    @classmethod
    def create(cls, experiment: Experiment) -> "RunDirectory":
        """A new run directory with the resolved config, the prompts, and the versions of everything.

        It is made under another name and renamed, so it is there whole or not at all; an older one goes last, its
        checkpoints before the rest: they must never be taken for the new run's.
        """
        run = cls.planned(experiment)
        path = run.path
        unfinished = cls(path.with_name(f".{path.name}.{os.getpid()}"))
        shutil.rmtree(unfinished.path, ignore_errors=True)
        unfinished.images.mkdir(parents=True)
        write_prompts(experiment, unfinished.path)
        unfinished.write_config(experiment)
        (unfinished.path / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")
        discard_after(run.checkpoints(experiment), -1)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(unfinished.path, path)
        return run

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

    def write_config(self, experiment: Experiment) -> None:
        """Keeps the resolved config, and a copy by which a later edit of it, or of the prompts, is noticed."""
        replace_text(self.settings, json.dumps(_settings(experiment), indent=2) + "\n")
        replace_text(self.config, tomli_w.dumps(portable(experiment)))

    def experiment(self) -> Experiment:
        """The experiment that this directory was made for, whether or not it could run here."""
        return build_experiment(read_toml(self.config), self.path)

    def changed(self, overrides: Sequence[str], allowed: Sequence[str]) -> Experiment:
        """The same with overrides of what is allowed to change, checked to run here.

        Raises:
            ConfigError: where anything else is not what the run was made with, by an override or by an edit of its
                files: the run's numbers would change.
        """
        changed = load_changed(self.config, overrides)
        kept = json.loads(self.settings.read_text()) if self.settings.exists() else _settings(self.experiment())
        # Settings that came with a later release than the run's meant their defaults then.
        watched = EvaluateConfig(reward_settings=changed.evaluate.reward_settings)
        plain = Experiment(type(changed.method)(), reward=changed.reward, evaluate=watched)
        now, defaults = _settings(changed), _settings(plain)
        made_with = defaults | flattened(kept)
        differing = [
            name
            for name in sorted(now.keys() | flattened(kept).keys())
            if now.get(name) != made_with.get(name) and not any(f"{name}.".startswith(f"{free}.") for free in allowed)
        ]
        if differing:
            told = [
                f"{name}: other prompts"
                if name.endswith("prompts")
                else f"{name} = {now.get(name)!r} (was {made_with.get(name)!r})"
                for name in differing
            ]
            raise ConfigError(
                f"{', '.join(told)}: an existing run may change only {', '.join(allowed)}; take the change back (it "
                f"may be an edit of {self.config.name} or of a prompt file in {self.path}), or train under another "
                "run.name"
            )
        return changed

    def rewound(self, experiment: Experiment, iteration: int) -> "RunDirectory":
        """This directory, ready to go on after `iteration`."""
        self.write_config(experiment)
        self.summary.unlink(missing_ok=True)
        discard_after(self.checkpoints(experiment), iteration)
        self.forget_after(iteration)
        self.keep_rows(self.workers, self.rows(self.workers))  # all of them, but for a line that a kill has torn
        return self

    def forget_after(self, iteration: int) -> None:
        """Drops later rows, which will be computed again."""
        for file in (self.metrics, self.timings, self.evaluations, self.alarms):
            self.keep_rows(file, [row for row in self.rows(file) if row["iteration"] <= iteration])

    def keep_rows(self, file: Path, rows: list[dict[str, Any]]) -> None:
        """Makes these the JSON lines of a file."""
        replace_text(file, "".join(json.dumps(row) + "\n" for row in rows))

    def append(self, file: Path, row: dict[str, Any]) -> None:
        """Adds a JSON line, on the disk before any checkpoint that comes after it."""
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            os.fsync(lines.fileno())

    def rows(self, file: Path) -> list[dict[str, Any]]:
        """The JSON lines of a file, oldest first; a last line that a kill has torn does not count."""
        lines = file.read_text().split("\n") if file.exists() else []
        return [json.loads(line) for line in lines[:-1]]

    def all_evaluations(self) -> list[Evaluation]:
        """Every evaluation so far, oldest first."""
        return [
            Evaluation(**row | {"rewards": {name: Estimate(**value) for name, value in row["rewards"].items()}})
            for row in self.rows(self.evaluations)
        ]

    def save_evaluation(self, evaluation: Evaluation, images: UInt8[Tensor, "P n height width 3"]) -> None:
        """Adds an evaluation and its picture grid, the grid first: where there is a row, there is a picture."""
        save_picture(picture_grid(images[:GRID_ROWS]), self.grid(evaluation.iteration))
        self.append(self.evaluations, dataclasses.asdict(evaluation))

    def save_judgement(
        self, evaluation: Evaluation, prompts: tuple[str, ...], images: UInt8[Tensor, "P n height width 3"]
    ) -> None:
        """Keeps an evaluation that was asked for apart from training: a row in `judged.jsonl`, and its grid."""
        rows = [*self.rows(self.judged), dataclasses.asdict(evaluation) | {"heldout_prompts": prompts}]
        save_picture(picture_grid(images), self.images / f"judged-{len(rows):03d}.png")
        self.keep_rows(self.judged, rows)

    def save_answer(self, answer: dict[str, Any]) -> None:
        """Keeps the table of a question, a row in `answers.jsonl`."""
        self.keep_rows(self.answers, [*self.rows(self.answers), answer])

    def save_change(self, iteration: int, change: Change) -> None:
        """Keeps what became of a worker, noted after `iteration` iterations. No resume forgets it."""
        told = datetime.fromtimestamp(change.time, UTC).isoformat(timespec="seconds")
        self.append(self.workers, {"iteration": iteration} | dataclasses.asdict(change) | {"time": told})

    def grid(self, iteration: int) -> Path:
        """The picture grid of an evaluation: a row a prompt, the same seeds at every iteration."""
        return self.images / f"{iteration:06d}.png"


def write_prompts(experiment: Experiment, folder: Path) -> None:
    """The prompts, under the names that `portable` configs call them by: a run does not depend on their source once it
    has begun."""
    for key in _given(experiment):
        (folder / f"{key}.txt").write_text("\n".join(getattr(experiment, key)) + "\n", encoding="utf-8")


def _given(experiment: Experiment) -> list[str]:
    """The keys of PROMPTS that have some: a method on labelled pictures has theirs to train on."""
    return [key for key in PROMPTS if getattr(experiment, key)]


def portable(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The config as tables: prompts are the copies beside it, and local paths are absolute."""
    tables = resolved(experiment)
    tables["run"] |= {key: f"{key}.txt" for key in _given(experiment)}
    for name in LOCAL:
        place = getattr(experiment.model, name)
        if place and place != "tiny" and Path(place).exists():
            tables["model"][name] = str(Path(place).resolve())
    if experiment.data.path and Path(experiment.data.path).exists():
        tables["data"]["path"] = str(Path(experiment.data.path).resolve())
    if experiment.checkpoint.folder:
        tables["checkpoint"]["folder"] = str(Folder.at(experiment.checkpoint.folder))
    return tables


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Every setting by its address, the prompts themselves and what a LoRA's file holds among them, as JSON gives them
    back."""
    flat = flattened(portable(experiment)) | {f"run.{key}": getattr(experiment, key) for key in PROMPTS}
    existing = local_file(experiment.model.lora_weights) if experiment.model.lora_weights else None
    if existing is not None:
        with existing.open("rb") as content:
            flat["model.lora_weights' file"] = hashlib.file_digest(content, "sha256").hexdigest()
    return json.loads(json.dumps(flat))


def flattened(tables: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The values of nested tables by their addresses."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= flattened(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return found


def replace_text(file: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    replace_file(file, text.encode())


def save_picture(picture: Image.Image, file: Path) -> None:
    """Writes a PNG whole or not at all."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    replace_file(file, content.getvalue())


def picture_grid(images: UInt8[Tensor, "P n height width 3"]) -> Image.Image:
    """Pictures side by side, a row a prompt."""
    rows, columns, height, width, _ = images.shape
    sheet = images.permute(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    return Image.fromarray(sheet.numpy())


def package_versions() -> dict[str, str]:
    """Of what decides a run's numbers."""
    return {"raypref": raypref.__version__} | {name: importlib.metadata.version(name) for name in PACKAGES}


def versions() -> dict[str, str]:
    """What the run was computed with."""
    return package_versions() | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "argv": " ".join(sys.argv),
    }
