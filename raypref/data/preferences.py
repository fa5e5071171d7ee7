"""A preference set that is ready for training: encoded latents on disk, read a batch at a time, by address.

A set is a folder:

    manifest.json       what it holds and how it came about; written last, so without it the set is not finished
    latents.npy         [N V A C H W], rows of A pictures; V = 2 where every picture is there mirrored, too
    rows.safetensors    of each row that can be used: its place in latents.npy, its label, the checksum of its latents
    prompts.json        of the same rows: the prompt
"""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Float32, Int
from safetensors.numpy import load
from torch import Tensor

from raypref.core.seeding import Key
from raypref.core.types import LOSE, WIN, Preferences
from raypref.data.latents_file import LatentsFile, row_checksum
from raypref.data.preference_source import DataConfig

FORMAT = 1
MANIFEST, LATENTS, ROWS, PROMPTS = "manifest.json", "latents.npy", "rows.safetensors", "prompts.json"


class UnusableSet(ValueError):
    """A folder that is no preference set, or one that is damaged or does not hold what is asked of it."""


@dataclass(frozen=True)
class SetManifest:
    """What a set holds."""

    places: int
    """N: rows of latents.npy, the skipped ones among them."""
    arms: int
    """2: pairs, the preferred picture first. 1: single pictures."""
    latent_shape: tuple[int, int, int]
    """C, H, W."""
    mirrored: bool
    """Whether every picture is there a second time, mirrored."""
    rows: int = 0
    """Rows that can be used."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Why, and how many, rows cannot."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why, and how many, rows of the source have no place."""
    made_from: dict[str, Any] = field(default_factory=dict)
    """Everything that decided the latents."""
    checksum: str = ""
    """Of the rows, their prompts, and by their checksums of their latents: the identity of the set."""
    format: int = FORMAT

    def latents(self, folder: Path) -> LatentsFile:
        """The file of the set in a folder."""
        variants = 2 if self.mirrored else 1
        return LatentsFile(folder / LATENTS, self.places, (variants, self.arms, *self.latent_shape))


@dataclass(frozen=True)
class PreparedSet:
    """A finished set, and the randomness with which it is read.

    Nothing is consumed: `batch` is a function of its arguments, so a resumed run goes on with the very rows, prompts
    and mirrorings that it would have had.
    """

    folder: Path
    manifest: SetManifest
    prompts: tuple[str, ...]
    label: Float32[np.ndarray, " rows"]
    place: Int[np.ndarray, " rows"]
    checksum: Int[np.ndarray, " rows"]
    prompt_dropout: float = 0.0
    random_flip: bool = False

    @classmethod
    def open(cls, folder: Path, config: DataConfig | None = None) -> "PreparedSet":
        """Reads everything but the latents. Of `config` the prompt dropout and the flips are used; without one there
        are none.

        Raises:
            UnusableSet: where the folder holds no finished set, or a damaged one.
        """
        manifest = read_manifest(folder)
        try:
            rows, prompts = (folder / ROWS).read_bytes(), (folder / PROMPTS).read_bytes()
        except OSError as problem:
            raise UnusableSet(f"{folder} is damaged: {problem}; delete it, and it is made again") from None
        if identity(rows, prompts) != manifest.checksum:
            raise UnusableSet(f"{folder} is damaged: {ROWS} or {PROMPTS} has changed; delete it, and it is made again")
        found, config = load(rows), config or DataConfig()
        if config.random_flip and not manifest.mirrored:
            raise UnusableSet(f"{folder} has no mirrored pictures; prepare it with random_flip = true")
        return cls(folder, manifest, tuple(json.loads(prompts)), found["label"], found["place"], found["checksum"],
                   config.prompt_dropout, config.random_flip)  # fmt: skip

    def __len__(self) -> int:
        """Rows: pairs, or single pictures."""
        return len(self.prompts)

    @property
    def arms(self) -> int:
        """2: a set of pairs, which can be read as single pictures too. 1: a set of single pictures."""
        return self.manifest.arms

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return self.manifest.latent_shape

    def as_they_are(self) -> "PreparedSet":
        """The set without prompt dropout and flips."""
        return replace(self, prompt_dropout=0.0, random_flip=False)

    def items(self, arms: int, desirable_only: bool = False) -> Int[Tensor, " count"]:
        """The addresses of all that one pass reads, in the order of the set; see `batch`.

        Raises:
            UnusableSet: where there is nothing, or pairs are asked of a set of single pictures.
        """
        if arms == 2 and self.arms == 1:
            raise UnusableSet(f"{self.folder} holds single pictures, and pairs are needed: name two columns in images")
        found = torch.from_numpy(_items(self.label.tobytes(), self.arms, arms, desirable_only))
        if not len(found):
            raise UnusableSet(f"{self.folder} has no {'desirable ' if desirable_only else ''}picture to train on")
        return found

    def batch(self, iteration: int, size: int, key: Key, arms: int, desirable_only: bool = False) -> Preferences:
        """The rows of an iteration: `size` of them, from a shuffled order that is drawn anew when all have been seen.

        Args:
            iteration: 0 or more; rows iteration * size and following of the endless order.
            size: B.
            key: where the order, the dropout and the flips are addressed.
            arms: 2 for pairs; 1 for single pictures, among them the pictures of pairs one by one, except for ties.
            desirable_only: of single pictures those with label 1.

        Returns:
            Preferences. An item is the row of a pair, or 2 row + arm of a picture out of a pair: the same whatever is
            asked. Both pictures of a pair are mirrored, or none.

        Raises:
            UnusableSet: where the set does not hold what is asked for, or latents are damaged.
        """
        picked = self._picked(iteration, size, key, arms, desirable_only)
        apart, chosen = self.arms > arms, self._chosen(picked, arms)
        flips = [self.random_flip and bool(key("flip", *address).integer(2)) for address in picked]
        x_0 = [self._latents(row, mirrored) for (row, _), mirrored in zip(chosen, flips, strict=True)]
        arm = [slice(which, which + 1) if apart else slice(None) for _, which in chosen]
        rows = torch.tensor([row for row, _ in chosen])
        label = torch.tensor([float(which == WIN) for _, which in chosen]) if apart else self._labels(rows)
        return Preferences(
            prompts=self._prompts_of(picked, key, arms),
            x_0=torch.stack([latents[which] for latents, which in zip(x_0, arm, strict=True)], 1),
            label=label,
            items=torch.tensor([item for _, item in picked]),
        )

    def batch_prompts(
        self, iteration: int, size: int, key: Key, arms: int, desirable_only: bool = False
    ) -> tuple[str, ...]:
        """The prompts of `batch`. No latents are read."""
        return self._prompts_of(self._picked(iteration, size, key, arms, desirable_only), key, arms)

    def _picked(self, iteration: int, size: int, key: Key, arms: int, desirable_only: bool) -> list[tuple[int, int]]:
        """The pass and the item of each row of a batch."""
        everything = self.items(arms, desirable_only)
        drawn = [divmod(number, len(everything)) for number in range(iteration * size, (iteration + 1) * size)]
        orders = {epoch: _order(key("order", epoch), len(everything)) for epoch in {epoch for epoch, _ in drawn}}
        return [(epoch, int(everything[orders[epoch][place]])) for epoch, place in drawn]

    def _chosen(self, picked: list[tuple[int, int]], arms: int) -> list[tuple[int, int]]:
        """The row of each item, and the arm where pairs are read as single pictures."""
        return [divmod(item, 2) if self.arms > arms else (item, 0) for _, item in picked]

    def _prompts_of(self, picked: list[tuple[int, int]], key: Key, arms: int) -> tuple[str, ...]:
        return tuple(
            "" if self._drops(key("dropout", *address)) else self.prompts[row]
            for address, (row, _) in zip(picked, self._chosen(picked, arms), strict=True)
        )

    def _drops(self, key: Key) -> bool:
        return key.integer(1 << 30) < self.prompt_dropout * (1 << 30)

    def _labels(self, rows: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.from_numpy(self.label[rows.numpy()])

    def _latents(self, row: int, mirrored: bool) -> Float[Tensor, "A C H W"]:
        """One row, proved."""
        try:
            latents = self._file.read(int(self.place[row]))
        except EOFError as problem:
            raise UnusableSet(f"{problem}; delete the folder, and it is made again") from None
        if row_checksum(latents) != int(self.checksum[row]):
            raise UnusableSet(f"{self._file.path} is damaged in row {row}; delete the folder, and it is made again")
        return torch.from_numpy(latents[int(mirrored)].copy())

    @cached_property
    def _file(self) -> LatentsFile:
        return self.manifest.latents(self.folder)


@lru_cache(maxsize=4)
def _order(key: Key, count: int) -> Int[Tensor, " count"]:
    """The order of a pass, which all of its batches ask for."""
    return key.permutation(count)


@lru_cache(maxsize=8)
def _items(label: bytes, stored: int, arms: int, desirable_only: bool) -> Int[np.ndarray, " count"]:
    """See `PreparedSet.items`."""
    labels = np.frombuffer(label, np.float32)
    rows = np.arange(len(labels))
    if arms == 2:
        return rows
    if stored == 1:
        return rows[labels == 1] if desirable_only else rows
    decided = rows[labels == 1]
    kinds = (WIN,) if desirable_only else (WIN, LOSE)
    return np.sort(np.concatenate([2 * decided + kind for kind in kinds]))


def read_manifest(folder: Path) -> SetManifest:
    """The manifest of a finished set.

    Raises:
        UnusableSet: where there is none.
    """
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UnusableSet(f"{folder} holds no finished preference set: it has no readable {MANIFEST}") from None
    if found.get("format") != FORMAT:
        raise UnusableSet(f"{folder} is a set of format {found.get('format')}, and this raypref reads {FORMAT}")
    return SetManifest(**found | {"latent_shape": tuple(found["latent_shape"])})


def write_manifest(folder: Path, manifest: SetManifest) -> None:
    """It makes the set a finished one."""
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def identity(rows: bytes, prompts: bytes) -> str:
    """XXH3-128 of both files."""
    return xxhash.xxh3_128(rows + prompts).hexdigest()
