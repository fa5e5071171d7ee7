"""Where weights come from: hub ids, folders and single files, all read by diffusers' own pipelines."""

import json
from pathlib import Path
from typing import Any

import torch

from raypref.models.base import ModelConfig
from raypref.models.libraries import Pipeline, diffusers

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of pipelines that no family loads."""


def load_pipeline(kind: str, config: ModelConfig, dtype: torch.dtype, omit: tuple[str, ...]) -> Pipeline:
    """The checkpoint as the pipeline of that class in diffusers, on the CPU. Components in `omit` are None, and not
    downloaded.

    Raises:
        OSError: where files are missing, or a tokenizer is empty.
    """
    pipeline, absent = diffusers(kind), dict.fromkeys(omit)
    if Path(config.source()).is_file():
        pipe = pipeline.from_single_file(config.source(), config=config.single_file_config, torch_dtype=dtype, **absent)
    else:
        pipe = pipeline.from_pretrained(
            config.source(),
            revision=config.revision,
            variant=config.variant,
            torch_dtype=dtype,
            use_safetensors=True,
            **absent,
        )
    _check_tokenizers(pipe, config.source())
    return pipe


def _check_tokenizers(pipe: Pipeline, source: str) -> None:
    """transformers builds an empty tokenizer, silently, where a checkpoint's files are missing: every prompt is then
    the same unknown word. T5's embedding has a few rows more than its tokenizer has words."""
    for name, encoder in pipe.components.items():
        if not name.startswith("text_encoder") or encoder is None:
            continue
        words, rows = len(pipe.components[name.replace("text_encoder", "tokenizer")]), encoder.config.vocab_size
        if words < 0.99 * rows:
            raise OSError(
                f"the {name.replace('text_encoder', 'tokenizer')} of {source} knows {words} words, its {name} {rows}: "
                "are the tokenizer's files there?"
            )


def read_config(kind: str, config: ModelConfig, name: str) -> dict[str, Any]:
    """The config.json of a component, of that class in diffusers, without its weights."""
    load = diffusers(kind).load_config
    if Path(config.source()).is_file():
        return load(config.single_file_config, subfolder=name)
    if Path(config.source()).is_dir() and not (Path(config.source()) / name / "config.json").is_file():
        raise FileNotFoundError(f"{config.source()} has no {name}/config.json: is it downloaded whole?")
    return load(config.source(), subfolder=name, revision=config.revision)


def check_checkpoint(
    config: ModelConfig, family: str, weights: tuple[str, ...], others: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    """Looks at a local checkpoint without loading it: `weights` are the folders of networks, the denoising one first,
    `others` those of tokenizers and the scheduler, `optional` may be missing. Of a hub id only the hub can tell.

    Raises:
        ValueError: where it cannot be a checkpoint of this family.
    """
    place, layout = Path(config.source()), Path(config.source())
    if config.revision and place.exists():
        raise ValueError(
            f"{place} is on this disk, where model.revision = {config.revision!r} says nothing; leave it out."
        )
    if config.variant and place.is_file():
        raise ValueError(f"{place} is one file, of which there are no variants; leave model.variant out.")
    if place.is_file():
        layout = Path(config.single_file_config)
        if place.suffix != ".safetensors":
            raise ValueError(f"{place} is no .safetensors file; pickled weights can run code and are not loaded.")
        if not config.single_file_config:
            raise ValueError(
                f"{place} holds weights only; set model.single_file_config to a folder or hub id in diffusers' layout "
                "of the model that it was made from: its config and tokenizer files are used."
            )
    if layout.is_dir():
        _check_layout(layout, family, {*weights, *others}, {*optional, *UNUSED})
    if place.is_dir():
        _check_weights(place, config, weights)


def _check_layout(folder: Path, family: str, needed: set[str], optional: set[str]) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is no diffusers folder: it has no model_index.json.")
    listed = json.loads(index.read_text())
    kind = listed.get("_class_name")
    missing = sorted(name for name in needed if not (folder / name).is_dir())
    if missing:
        raise ValueError(f"{folder} ({kind}) lacks {', '.join(missing)}: family {family} needs them.")
    components = {name for name, value in listed.items() if isinstance(value, list) and value[0] is not None}
    foreign = sorted(components - needed - optional)
    if foreign:
        raise ValueError(f"{folder} ({kind}) has {', '.join(foreign)}: it is of another family than {family}.")


def _check_weights(folder: Path, config: ModelConfig, weights: tuple[str, ...]) -> None:
    files = {name: [path.stem for path in (folder / name).glob("*.safetensors")] for name in weights}
    pickled = [name for name, stems in files.items() if not stems]
    if pickled:
        raise ValueError(
            f"{folder} has no .safetensors file in {', '.join(pickled)}; pickled weights (.bin) can run code and "
            "are not loaded; load the pipeline in diffusers once and save it with safe_serialization=True."
        )
    # diffusion_pytorch_model.fp16.safetensors, or a shard: model.fp16-00001-of-00002.safetensors
    variants = {stem.partition(".")[2].partition("-")[0] or None for stem in files[weights[0]]}
    if config.variant not in variants:
        found = " and ".join("none" if variant is None else repr(variant) for variant in variants)
        raise ValueError(f"{folder / weights[0]} has no variant {config.variant!r}; model.variant can be {found}.")
