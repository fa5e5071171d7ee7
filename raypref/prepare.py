"""Labelled pictures become a preference set: read, chosen, encoded by the pipeline's own VAE, once."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypref.checks import ConfigError
from raypref.cluster.encoding import encode_on_ray
from raypref.core.counted import counted
from raypref.data.hub import may_be_dataset
from raypref.data.open_table import open_table
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import MANIFEST, PreparedSet, SetManifest, UnusableSet, read_manifest
from raypref.data.selection import Chosen, check_columns, select
from raypref.data.set_writer import SetWriter
from raypref.data.table import PictureTable
from raypref.disk import REFUSALS
from raypref.lock import locked
from raypref.methods.regression import RegressionMethod
from raypref.models.base import Encoder
from raypref.train.build import claim_threads, model_family
from raypref.train.encoding import ENCODING, Block, EncodedRow, RowEncoder, blocks
from raypref.train.experiment import Experiment
from raypref.train.stopped import StoppedRun

LARGE = 1000
"""Rows from which Ray Data encodes them, where the run is on Ray: it takes seconds to start."""


def prepare(experiment: Experiment, say: Callable[[str], None]) -> PreparedSet:
    """The set that `[data]` asks for, from the cache or made now. Where it was begun, it goes on; where another process
    makes it, it is waited for.

    Raises:
        ConfigError: where the data is not what the config says, or not what a run began with, or nothing that the
            method could learn from.
        StoppedRun: where a picture cannot be read, and data.unreadable is "stop"; where data workers are lost; where
            the disk is full.
    """
    if not experiment.data.path:
        raise ConfigError("data.path is missing: name a file or folder with labelled pictures, see docs/data.md")
    try:
        found = _prepare(experiment, say)
        if isinstance(experiment.method, RegressionMethod):
            found.items(experiment.method.reads, experiment.method.desirable_only)
        return found
    except UnusableSet as problem:
        raise ConfigError(f"data.path = {experiment.data.path!r}: {problem}") from None
    except OSError as problem:
        if problem.errno not in REFUSALS:
            raise
        raise StoppedRun(
            f"{problem.filename or experiment.data.cache_dir}: {problem.strerror}; what is encoded stays, and the next "
            "start goes on from there"
        ) from problem


def _prepare(experiment: Experiment, say: Callable[[str], None]) -> PreparedSet:
    config = experiment.data
    path = Path(config.prepared or config.path)
    given = (path / MANIFEST).exists()
    if not given and config.prepared:
        path = _source_of_lost(config)
    table = None if given else open_table(path, config.split)
    if table is not None:
        check_columns(table, config)
    claim_threads(experiment)
    encoder = model_family(experiment).encoder(experiment.model)
    if table is None:
        _check_fit(read_manifest(path), encoder)
        return PreparedSet.open(path, config)
    made_from = _made_from(table, config, encoder)
    folder = Path(config.prepared) if config.prepared else cache_folder(config, made_from)
    if folder.name != cache_folder(config, made_from).name:
        raise UnusableSet(
            f"it is not what the run began with, whose set was {folder}: put back that folder, or the data as it was "
            "(names, sizes and times of its files count)"
        )
    if not (folder / MANIFEST).exists():
        # Trials of a study all want it at once: one makes it, the others wait.
        with locked(folder, "preference set", "data.cache_dir", wait=True):
            if not (folder / MANIFEST).exists():
                _make(experiment, RowEncoder(encoder, table, config), folder, made_from, say)
    found = PreparedSet.open(folder, config)
    say(f"preferences: {describe(found)}, in {folder}")
    return found


def _source_of_lost(config: DataConfig) -> Path:
    """Where the set of a run that has begun can be made again."""
    if not Path(config.path).exists() and not may_be_dataset(config.path):
        raise UnusableSet(f"it is gone, and so is the set that the run began with, {config.prepared}; put back one")
    return Path(config.path)


def cache_folder(config: DataConfig, made_from: dict[str, Any]) -> Path:
    """Where a set made from this is kept."""
    key = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=8).hexdigest()
    return Path(config.cache_dir) / f"{Path(config.path).stem}-{key}"


def describe(prepared: PreparedSet) -> str:
    """What a set holds, on one line."""
    manifest = prepared.manifest
    lost = [f"{count}x {why}" for why, count in (manifest.left_out | manifest.skipped).items()]
    held = counted(len(prepared), "pair" if prepared.arms == 2 else "picture")
    return held + (f" (left out: {', '.join(lost)})" if lost else "")


def _made_from(table: PictureTable, config: DataConfig, encoder: Encoder) -> dict[str, Any]:
    """Everything that decides which rows a set has, and their bits."""
    return {
        "data": table.identity(),
        "columns": [list(config.images), config.caption, list(config.labels)],
        "rows": [config.ties, config.duplicate_prompts, config.unreadable],
        "mirrored": config.random_flip,
        "encoder": encoder.identity(),
        "encoding": ENCODING,
    }


def _check_fit(manifest: SetManifest, encoder: Encoder) -> None:
    """A set that was made elsewhere, by `raypref prepare` or by hand."""
    made, needed = manifest.made_from.get("encoder", {}), encoder.identity()
    wrong = [
        f"{name} is {made[name]}, and the model's is {needed[name]}" for name in made if made[name] != needed[name]
    ]
    if wrong:
        raise UnusableSet(f"its latents are another model's: {'; '.join(wrong)}; prepare it with this [model]")
    if manifest.latent_shape != encoder.latent_shape:
        raise UnusableSet(f"it holds latents of {manifest.latent_shape}, and the model's are {encoder.latent_shape}")


def _make(
    experiment: Experiment, encoder: RowEncoder, folder: Path, made_from: dict[str, Any], say: Callable[[str], None]
) -> None:
    config, selection = experiment.data, select(encoder.table, experiment.data)
    planned = SetManifest(
        places=len(selection.chosen),
        arms=len(config.images),
        latent_shape=encoder.encoder.latent_shape,
        mirrored=config.random_flip,
        left_out=selection.left_out,
        made_from=made_from,
    )
    writer = SetWriter(folder, planned)
    try:
        missing = writer.missing()
        say(f"encoding {len(missing)} of {len(selection.chosen)} rows of {config.path} into {folder}")
        for row in _rows(experiment, encoder, blocks(encoder.table, selection.chosen, missing), planned):
            _keep(row, selection.chosen[row.place], writer, config)
        writer.finish()
    finally:
        writer.close()


def _keep(row: EncodedRow, chosen: Chosen, writer: SetWriter, config: DataConfig) -> None:
    if row.latents is not None:
        writer.put(row.place, row.latents, chosen.prompt, chosen.label)
    elif config.unreadable == "skip":
        writer.skip(row.place, row.why)
    else:
        raise StoppedRun(
            f"data.path = {config.path!r}: in row {chosen.row} {row.why}; mend it, or leave such rows out with "
            'data.unreadable = "skip"'
        )


def _rows(
    experiment: Experiment, encoder: RowEncoder, todo: list[Block], manifest: SetManifest
) -> Iterator[EncodedRow]:
    """Encoded here, or by data workers; the bits are the same."""
    large = sum(len(block.rows) for block in todo) >= LARGE
    if experiment.cluster.runtime == "ray" and large and importlib.util.find_spec("pandas"):  # Ray Data needs it
        # Of a dataset of the Hub they shall read what was read here, though it change there.
        found = replace(experiment, data=replace(experiment.data, path=str(encoder.table.path)))
        yield from encode_on_ray(found, todo, manifest.latents(Path()).shape)
    else:
        for block in todo:
            yield from encoder.encode(block)
