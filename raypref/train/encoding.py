"""The data worker's work: read the pictures of some rows and encode them. A pure function, whoever does it."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.data.open_table import open_table
from raypref.data.pictures import Unreadable, read_picture
from raypref.data.preference_source import DataConfig
from raypref.data.selection import Chosen
from raypref.data.table import Picture, PictureTable
from raypref.models.base import Encoder
from raypref.train.build import claim_threads, model_family
from raypref.train.experiment import Experiment
from raypref.train.out_of_memory import explaining_out_of_memory

ENCODING = 1
"""The version of how pictures are prepared and encoded; it changes with the code below and with `read_picture`."""
BLOCK = 128
"""Rows of one piece of work: what a lost worker may have done in vain."""


@dataclass(frozen=True)
class Block:
    """Rows of one group of a table."""

    rows: tuple[int, ...]
    """In the table, ascending."""
    places: tuple[int, ...]
    """In the set."""
    swapped: tuple[bool, ...]
    """Whether the second picture is the winner."""


@dataclass(frozen=True)
class EncodedRow:
    """A row, or why there is none."""

    place: int
    latents: Float[Tensor, "V A C H W"] | None
    why: str = ""


class RowEncoder:
    """The pipeline's own VAE, and a table open to be read."""

    def __init__(self, encoder: Encoder, table: PictureTable, config: DataConfig) -> None:
        self.encoder, self.table, self.config = encoder, table, config

    def encode(self, block: Block) -> Iterator[EncodedRow]:
        """Its rows, one by one: the pictures of a row are one batch, so that its bits do not depend on others."""
        pictures = self.table.pictures(self.config.images, block.rows)
        for place, swapped, files in zip(block.places, block.swapped, pictures, strict=True):
            yield self._encode_row(place, files[::-1] if swapped else files)

    @explaining_out_of_memory("data worker")
    def _encode_row(self, place: int, files: tuple[Picture, ...]) -> EncodedRow:
        try:
            images = torch.stack([read_picture(file, self.encoder.side) for file in files])
        except Unreadable as problem:
            return EncodedRow(place, None, f"a picture {problem}")
        variants = (images, images.flip(-1)) if self.config.random_flip else (images,)
        latents = self.encoder.encode(torch.cat(variants))
        return EncodedRow(place, latents.unflatten(0, (len(variants), len(files))))


def build_row_encoder(experiment: Experiment) -> RowEncoder:
    """What a data worker needs, from the experiment alone."""
    claim_threads(experiment)
    encoder = model_family(experiment).encoder(experiment.model)
    data = experiment.data
    return RowEncoder(encoder, open_table(Path(data.path), data.split), data)


def blocks(table: PictureTable, chosen: Sequence[Chosen], places: Sequence[int]) -> list[Block]:
    """The work that is to do for some places of a set, which are numbers of `chosen` in ascending order."""
    stops = [group.stop for group in table.groups()]
    found = []
    for _, together in groupby(places, key=lambda place: bisect_right(stops, chosen[place].row)):
        group = tuple(together)
        for part in (group[start : start + BLOCK] for start in range(0, len(group), BLOCK)):
            rows = [chosen[place] for place in part]
            found.append(Block(tuple(row.row for row in rows), part, tuple(row.swapped for row in rows)))
    return found
