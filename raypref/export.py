"""What a run has trained, written for others: as one LoRA file, or merged into a pipeline that needs no adapter."""

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

from raypref.checks import ConfigError
from raypref.models.existing_lora import UnusableLoRA
from raypref.models.lora_layout import as_kohya, safetensors_file
from raypref.models.merge import merged
from raypref.models.placeless import forget_places
from raypref.run_directory import RunDirectory
from raypref.train.build import model_family
from raypref.train.experiment import Experiment
from raypref.train.folder import replace_file

LAYOUTS = ("diffusers", "kohya", "merged")


def export(path: Path, layout: str, output: Path) -> None:
    """Writes what a finished run has trained.

    Args:
        layout: diffusers, kohya: a LoRA in one .safetensors file, the latter as ComfyUI reads it. merged: a folder with
            the whole pipeline, in model.dtype.
        output: what is to be made; it must not exist.

    Raises:
        ConfigError: where the run has trained nothing of the kind yet, or the output cannot be it.
    """
    directory = RunDirectory.open(path)
    experiment = directory.experiment()
    trained = directory.lora_file if experiment.model.train == "lora" else directory.network
    if not trained.exists():
        raise ConfigError(f"run directory {path}: it has no {trained.name} yet; finish it with `raypref resume {path}`")
    _check_output(layout, output, experiment)
    if layout == "merged":
        _write_merged(experiment, trained, output)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, trained.read_bytes() if layout == "diffusers" else _kohya(experiment, trained))


def _check_output(layout: str, output: Path, experiment: Experiment) -> None:
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout {layout}: choose from {', '.join(LAYOUTS)}")
    if output.exists():
        raise ConfigError(f"--output {output}: it exists; name a new {'folder' if layout == 'merged' else 'file'}")
    if layout != "merged" and experiment.model.train == "full":
        raise ConfigError(f"--layout {layout}: this run has trained the whole network, and has no LoRA; choose merged")
    if layout != "merged" and output.suffix != ".safetensors":
        raise ConfigError(f"--output {output}: --layout {layout} is one file; name it {output.stem}.safetensors")


def _kohya(experiment: Experiment, trained: Path) -> bytes:
    with safe_open(trained, "pt") as content:
        metadata = content.metadata()
    return safetensors_file(as_kohya(load_file(trained), model_family(experiment).kohya_prefixes), metadata)


def _write_merged(experiment: Experiment, trained: Path, output: Path) -> None:
    try:
        pipe = merged(model_family(experiment), experiment.model, trained)
    except (OSError, UnusableLoRA) as problem:
        raise ConfigError(f"model.path = {experiment.model.path!r}: {problem}") from problem
    pipe.save_pretrained(output)
    forget_places(output)
