"""Where on this disk a checkpoint is, and how large: from the headers of its files, nothing is loaded."""

import json
from dataclasses import replace
from math import prod
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from raypref.models.base import ModelConfig

ARCHITECTURES = Path(__file__).parent.parent / "assets" / "architectures"
"""By family: what its best-known checkpoint is called, the config.json of its networks, and how many parameters its
text encoders have."""
PUBLISHED = "published.json"


def on_disk(config: ModelConfig) -> ModelConfig | None:
    """The same model by the folders that hold it, hub ids replaced by their snapshots in the cache. None where one of
    them is not on this disk yet, or is a single file."""
    path = _folder(config.source(), config.revision, "model_index.json")
    vae = _folder(config.vae, None, "config.json") if config.vae else None
    if path is None or (config.vae and vae is None):
        return None
    return replace(config, path=str(path), vae=str(vae or ""))


def published(config: ModelConfig) -> tuple[str, ModelConfig] | None:
    """The best-known checkpoint of a model's family, as if its configs alone were on this disk, and what it is called.
    None where the family has none."""
    folder = ARCHITECTURES / config.family
    if not folder.is_dir():
        return None
    alike = replace(config, path=str(folder), vae="", single_file_config="", revision=None, variant=None)
    return json.loads((folder / PUBLISHED).read_text())["model"], alike


def text_encoder_parameters(config: ModelConfig) -> int:
    """How many the text encoders of a model on this disk, or of a published one, have.

    Raises:
        FileNotFoundError: where their files are not there: a download that was not for all, or is not finished.
    """
    told = Path(config.source()) / PUBLISHED
    if told.is_file():
        counts = json.loads(told.read_text())["text_encoders"]
        return sum(count for name, count in counts.items() if config.text_encoder_3 or name != "text_encoder_3")
    folders = sorted(Path(config.source()).glob("text_encoder*"))
    wanted = [folder for folder in folders if config.text_encoder_3 or folder.name != "text_encoder_3"]
    if not wanted:
        raise FileNotFoundError(f"{config.source()} has no text encoder")
    return sum(_parameters(folder, config.variant) for folder in wanted)


def _folder(source: str, revision: str | None, index: str) -> Path | None:
    """By the file that every such folder has: of a checkpoint nobody downloads all that its repository holds."""
    place = Path(source)
    if place.exists():
        return place if place.is_dir() else None
    found = try_to_load_from_cache(source, index, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _parameters(folder: Path, variant: str | None) -> int:
    """Of the variant's files where the folder has any, as diffusers chooses."""
    files = sorted(folder.glob("*.safetensors"))
    wanted = [file for file in files if file.stem.partition(".")[2].partition("-")[0] == (variant or "")]
    total = 0
    if not files:
        raise FileNotFoundError(f"{folder} has no .safetensors file")
    for file in wanted or files:
        with safe_open(file, "pt") as content:
            total += sum(prod(content.get_slice(name).get_shape()) for name in content.keys())  # noqa: SIM118
    return total
