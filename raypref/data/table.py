"""Labelled pictures as somebody has stored them: rows of columns, of which those with pictures are read when asked."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raypref.data.preferences import UnusableSet
from raypref.registry import nearest

Picture = bytes | None
"""A picture's file as it was stored; None where there is none."""


class PictureTable(ABC):
    """One set. Rows are numbered from 0, through all of its files in the order of their names.

    `path` and `columns` are set by subclasses.
    """

    path: Path
    columns: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def groups(self) -> tuple[range, ...]:
        """All rows, by what lies together in a file and is best read together."""

    @abstractmethod
    def values(self, column: str) -> list[Any]:
        """A column of all rows; None where a row has nothing. For anything but pictures.

        Raises:
            UnusableSet: where a file cannot be read.
        """

    @abstractmethod
    def pictures(self, columns: Sequence[str], rows: Sequence[int]) -> Iterator[tuple[Picture, ...]]:
        """The pictures of some rows of one group, in ascending order; no more of them are held than a few."""

    @abstractmethod
    def files(self) -> Iterable[Path]:
        """Everything that is read."""

    def identity(self, times: bool = True) -> str:
        """Names, sizes and times of all files: a file that was touched is another one. Without times a copy is the
        same."""
        digest, folder = hashlib.blake2b(digest_size=16), self.folder()
        for file in self.files():
            found = file.stat()
            name = file.relative_to(folder) if file.is_relative_to(folder) else file  # rows may name absolute paths
            facts = (name, found.st_size, found.st_mtime_ns) if times else (name, found.st_size)
            digest.update("".join(f"{fact}\0" for fact in facts).encode())
        return digest.hexdigest()

    def folder(self) -> Path:
        """What the files lie below."""
        return self.path if self.path.is_dir() else self.path.parent

    def check_columns(self, columns: Sequence[str], where: str) -> None:
        """Raises UnusableSet where one is missing; `where` is the key that names them."""
        for column in columns:
            if column not in self.columns:
                raise UnusableSet(f"{self.path} has no column {column!r} ({where}){nearest(column, self.columns)}")
