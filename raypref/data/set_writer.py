"""Writes a preference set, row by row in any order; what was written before a crash need not be written again."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save
from torch import Tensor

from raypref.data.latents_file import row_checksum
from raypref.data.preferences import (
    PROMPTS,
    ROWS,
    PreparedSet,
    SetManifest,
    UnusableSet,
    identity,
    write_manifest,
)

PLAN, LOG = "plan.json", "log.jsonl"
SYNCED = "synced"
"""A line of the log: all rows above it are on the disk."""
SYNC_EVERY = 1000
"""Rows from one such line to the next: no more of them are read again where a set is gone on with."""


@dataclass(frozen=True)
class LoggedRow:
    """A row that is on the disk, or that never will be."""

    place: int
    prompt: str = ""
    label: float = 1.0
    checksum: int = 0
    skipped: str = ""
    """Why there are no latents; empty: there are."""


class SetWriter:
    """One writer of one folder. `put` and `skip` answer for a place each; `finish` makes the folder a set.

    Latents go to their place in a file whose size is known from the start, and after them a line with their checksum
    into a log: a line without its latents cannot survive, whatever ends the writer. What a power cut may have taken
    is read again when the writer goes on.
    """

    def __init__(self, folder: Path, manifest: SetManifest) -> None:
        """Begins a set, or goes on with one that was begun with the same manifest.

        Raises:
            UnusableSet: where the folder holds the beginnings of another set.
        """
        self.folder, self.manifest, self.latents = folder, manifest, manifest.latents(folder)
        folder.mkdir(parents=True, exist_ok=True)
        planned = json.dumps(asdict(manifest), sort_keys=True)
        if (folder / PLAN).exists():
            if (folder / PLAN).read_text() != planned:
                raise UnusableSet(f"{folder} holds the beginnings of another set; delete it, or name another folder")
        else:
            self.latents.make()
            (folder / PLAN).write_text(planned)
        self.rows = self._found()
        self._rewrite_log()
        self._log, self._unsynced = (folder / LOG).open("a"), 0

    def put(self, place: int, latents: Float[Tensor, "V A C H W"], prompt: str, label: float) -> None:
        """A row: see `PreparedSet` for the order of arms and the meaning of labels.

        Raises:
            UnusableSet: where latents are not finite: the VAE has failed.
        """
        if not bool(latents.isfinite().all()):
            raise UnusableSet(f"row {place} has latents that are not finite; check model.vae and model.dtype")
        values = latents.float().contiguous().numpy()
        self.latents.write(place, values)
        self._note(LoggedRow(place, prompt, label, row_checksum(values)))

    def skip(self, place: int, why: str) -> None:
        """A row that cannot be read."""
        self._note(LoggedRow(place, skipped=why))

    def missing(self) -> list[int]:
        """Places that nothing is known of yet."""
        return [place for place in range(self.manifest.places) if place not in self.rows]

    def finish(self) -> PreparedSet:
        """The set.

        Raises:
            UnusableSet: where places are missing, or none can be used.
        """
        if missing := self.missing():
            raise UnusableSet(
                f"{self.folder} is not finished: {len(missing)} rows are missing, the first is {missing[0]}"
            )
        ordered = [self.rows[place] for place in range(self.manifest.places)]
        good = [row for row in ordered if not row.skipped]
        skipped = dict(Counter(row.skipped for row in ordered if row.skipped))
        if not good:
            raise UnusableSet(f"{self.folder} has no row that can be used: {skipped or 'the set is empty'}")
        self.close()
        rows = save(
            {
                "place": np.array([row.place for row in good], np.int64),
                "label": np.array([row.label for row in good], np.float32),
                "checksum": np.array([row.checksum for row in good], np.int64),
            }
        )
        prompts = json.dumps([row.prompt for row in good]).encode()
        (self.folder / ROWS).write_bytes(rows)
        (self.folder / PROMPTS).write_bytes(prompts)
        done = replace(self.manifest, rows=len(good), skipped=skipped, checksum=identity(rows, prompts))
        write_manifest(self.folder, done)
        (self.folder / LOG).unlink()
        (self.folder / PLAN).unlink()
        return PreparedSet.open(self.folder)

    def close(self) -> None:
        """Everything is on the disk afterwards."""
        if not self._log.closed:
            self._sync()
            os.fsync(self._log.fileno())
            self._log.close()

    def _note(self, row: LoggedRow) -> None:
        self._log.write(json.dumps(asdict(row)) + "\n")
        self._log.flush()
        self.rows[row.place] = row
        self._unsynced += 1
        if self._unsynced == SYNC_EVERY:
            self._sync()

    def _sync(self) -> None:
        self.latents.sync()  # before the line that says so
        self._log.write(json.dumps(SYNCED) + "\n")
        self._log.flush()
        self._unsynced = 0

    def _found(self) -> dict[int, LoggedRow]:
        """What was done before: rows that are known to be on the disk, and of the others those that prove to be."""
        logged = list(self._logged())
        known = max((number for number, row in enumerate(logged) if row is None), default=0)
        good = (row for number, row in enumerate(logged) if row and (number < known or self._is_good(row)))
        return {row.place: row for row in good}

    def _logged(self) -> Iterator[LoggedRow | None]:
        """The log as far as it can be read, for its last line may have been cut off; None for SYNCED."""
        log = self.folder / LOG
        for line in log.read_text().splitlines() if log.exists() else ():
            try:
                found = json.loads(line)
                yield None if found == SYNCED else LoggedRow(**found)
            except (ValueError, TypeError):
                return

    def _is_good(self, row: LoggedRow) -> bool:
        """Whether the latents that the log speaks of are there: a power cut may have left one without the other."""
        return bool(row.skipped) or row_checksum(self.latents.read(row.place)) == row.checksum

    def _rewrite_log(self) -> None:
        self.latents.sync()
        fresh, lines = self.folder / f"{LOG}.new", [asdict(row) for row in self.rows.values()]
        fresh.write_text("".join(json.dumps(line) + "\n" for line in (*lines, SYNCED)))
        fresh.replace(self.folder / LOG)


def write_set(
    folder: Path, latents: Float[Tensor, "N V A C H W"], prompts: tuple[str, ...], label: Float[Tensor, " N"]
) -> PreparedSet:
    """A set of latents that are there already, in one go. V = 2: the second of each is the mirrored picture's."""
    count, variants, arms, *shape = latents.shape
    writer = SetWriter(folder, SetManifest(count, arms, (shape[0], shape[1], shape[2]), variants == 2))
    for place in range(count):
        writer.put(place, latents[place], prompts[place], float(label[place]))
    return writer.finish()
