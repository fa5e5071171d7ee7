"""Data workers on Ray Data, which streams blocks of rows to them, holds back where they are fast, replaces the lost."""

import logging
import threading
from collections.abc import Iterable, Iterator
from functools import cached_property
from queue import Empty, Queue
from typing import Any

import numpy as np
import ray
import torch

from raypref.cluster.connect import connect
from raypref.cluster.placement import placement
from raypref.train.encoding import Block, EncodedRow, RowEncoder, build_row_encoder
from raypref.train.experiment import Experiment
from raypref.train.stopped import StoppedRun

Batch = dict[str, Any]
AT_ONCE = 8
"""Rows of one message."""


class DataWorkersLost(StoppedRun):
    """Encoding failed again and again."""


class DataWorker:
    """Encodes blocks: an actor of Ray Data."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    @cached_property
    def encoder(self) -> RowEncoder:
        """Loaded by the first call: Ray never restarts an actor whose constructor has raised, not even once."""
        return build_row_encoder(self.experiment)

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Of one block, a few rows at a time."""
        (rows,), (places,), (swapped,) = batch["rows"], batch["places"], batch["swapped"]
        block = Block(tuple(map(int, rows)), tuple(map(int, places)), tuple(map(bool, swapped)))
        held: list[EncodedRow] = []
        for row in self.encoder.encode(block):
            held.append(row)
            if len(held) == AT_ONCE:
                yield _pack(held)
                held = []
        if held:
            yield _pack(held)


def encode_on_ray(experiment: Experiment, blocks: list[Block], shape: tuple[int, ...]) -> Iterator[EncodedRow]:
    """All rows of all blocks, each once, in no order. Data workers take the places of samplers, which come later.

    Args:
        shape: V A C H W of the latents.

    Raises:
        DataWorkersLost: where encoding fails, or nothing comes of it for cluster.timeout seconds.
    """
    own_cluster = connect(experiment)
    try:
        yield from _stream(experiment, blocks, shape)
    finally:
        if own_cluster is not None:
            ray.shutdown()


def _stream(experiment: Experiment, blocks: list[Block], shape: tuple[int, ...]) -> Iterator[EncodedRow]:
    import ray.data as ray_data  # seconds, and pandas: only those who encode on Ray need it

    ray_data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every plan and every switch
    bundle = next(bundle for bundle in placement(experiment.cluster) if bundle.role == "sampler")
    workers = min(bundle.least, len(blocks)), min(bundle.most, len(blocks))
    described = [{"rows": b.rows, "places": b.places, "swapped": b.swapped} for b in blocks]
    encoded = ray_data.from_items(described, override_num_blocks=len(described)).map_batches(
        DataWorker,
        fn_constructor_args=(experiment,),
        batch_size=1,
        compute=ray_data.ActorPoolStrategy(min_size=workers[0], max_size=workers[1]),
        **bundle.options(),
    )
    try:
        batches = encoded.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1)
        for batch in _in_time(batches, experiment.cluster.timeout):
            yield from _unpack(batch, shape)
    except ray.exceptions.RayError as problem:
        said = str(problem).strip().splitlines()[-1]  # the lines above it are the worker's traceback
        raise DataWorkersLost(f"pictures could not be encoded: {said}") from problem


def _in_time(batches: Iterable[Batch], seconds: float) -> Iterator[Batch]:
    """The same. Ray Data restarts workers for ever, though one block end them all, and waits for ever for one that
    hangs: so many seconds without a batch are too many."""
    arrived = Queue[Batch | BaseException | None](maxsize=1)

    def pull() -> None:
        try:
            for batch in batches:
                arrived.put(batch)
            arrived.put(None)
        except BaseException as problem:
            arrived.put(problem)

    threading.Thread(target=pull, daemon=True).start()
    while True:
        try:
            batch = arrived.get(timeout=seconds)
        except Empty:
            raise DataWorkersLost(f"no data worker has encoded anything for {seconds:g} s (cluster.timeout)") from None
        if batch is None:
            return
        if isinstance(batch, BaseException):
            raise batch
        yield batch


def _pack(rows: list[EncodedRow]) -> Batch:
    return {
        "place": np.array([row.place for row in rows]),
        "latents": np.array([b"" if row.latents is None else row.latents.numpy().tobytes() for row in rows], object),
        "why": np.array([row.why for row in rows], object),
    }


def _unpack(batch: Batch, shape: tuple[int, ...]) -> Iterator[EncodedRow]:
    for place, latents, why in zip(batch["place"], batch["latents"], batch["why"], strict=True):
        values = torch.frombuffer(bytearray(latents), dtype=torch.float32).reshape(shape) if latents else None
        yield EncodedRow(int(place), values, str(why))
