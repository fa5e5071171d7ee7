"""The file of a set's latents: a plain .npy whose size is known from the start, read and written a row at a time."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from jaxtyping import Float32


@dataclass(frozen=True)
class LatentsFile:
    """float32 [places V A C H W]. Read, not mapped: a file that has become shorter is then an error and no crash. It is
    opened once for all that is read."""

    path: Path
    places: int
    shape: tuple[int, ...]
    """V, A, C, H, W."""

    def make(self) -> None:
        """A new file, which takes no room on the disk until it is written to."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.places, *self.shape)}
        with self.path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + self.places * self._row_bytes())

    def read(self, place: int) -> Float32[np.ndarray, "V A C H W"]:
        """The row at a place.

        Raises:
            EOFError: where the file ends before.
        """
        content = os.pread(self._opened.fileno(), self._row_bytes(), self._offset(place))
        if len(content) < self._row_bytes():
            raise EOFError(f"{self.path} ends before row {place}")
        return np.frombuffer(content, np.float32).reshape(self.shape)

    def write(self, place: int, row: Float32[np.ndarray, "V A C H W"]) -> None:
        """The row at a place; the operating system has it when this returns."""
        assert row.shape == self.shape
        with self.path.open("r+b") as file:
            file.seek(self._offset(place))
            file.write(row.tobytes())

    def sync(self) -> None:
        """Everything is on the disk when this returns."""
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())

    def _row_bytes(self) -> int:
        return 4 * int(np.prod(self.shape))

    @cached_property
    def _opened(self) -> BinaryIO:
        return self.path.open("rb")

    @cached_property
    def _start(self) -> int:
        """Where the first row begins."""
        np.lib.format.read_magic(self._opened)
        np.lib.format.read_array_header_1_0(self._opened)
        return self._opened.tell()

    def _offset(self, place: int) -> int:
        return self._start + place * self._row_bytes()


def row_checksum(row: Float32[np.ndarray, "V A C H W"]) -> int:
    """63 bits of XXH3 of a row's bytes."""
    return xxhash.xxh3_64(np.ascontiguousarray(row).data).intdigest() >> 1
