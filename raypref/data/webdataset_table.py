"""Tar files in WebDataset's layout: a row is the members that share a name up to its first dot."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypref.data.preferences import UnusableSet
from raypref.data.table import Picture, PictureTable

TEXT = {"txt": str, "cls": float}
"""Members that hold one value."""


@dataclass
class Sample:
    """A row."""

    values: dict[str, Any] = field(default_factory=dict)
    """From its JSON and text."""
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where in the tar anything else begins, and how long it is."""


class WebDatasetTable(PictureTable):
    """Tar files. `00017.jpg_0` is column jpg_0 of row 00017, and every key of `00017.json`
    is a column. Their headers and texts are read at once, the pictures from where they lie."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        """Raises UnusableSet where a file is no tar file, or is compressed."""
        self.path = path
        self._tars = list(files)
        self._samples: list[tuple[Path, Sample]] = []
        self._groups: list[range] = []
        for tar in self._tars:
            start = len(self._samples)
            self._samples += [(tar, sample) for sample in _read(tar)]
            self._groups.append(range(start, len(self._samples)))
        self.columns = tuple(dict.fromkeys(name for _, row in self._samples for name in (*row.values, *row.members)))

    def __len__(self) -> int:
        return len(self._samples)

    def groups(self) -> tuple[range, ...]:
        """See `PictureTable.groups`."""
        return tuple(self._groups)

    def values(self, column: str) -> list[Any]:
        """See `PictureTable.values`.

        Raises:
            UnusableSet: where the column is one of members of their own, which are taken for pictures.
        """
        apart = next((tar for tar, sample in self._samples if column in sample.members), None)
        if apart is not None:
            raise UnusableSet(
                f"{apart} has {column!r} as files of their own, which are read as pictures; put what is no picture "
                "into each row's .json, its caption into .txt, or its label into .cls"
            )
        return [sample.values.get(column) for _, sample in self._samples]

    def pictures(self, columns: Sequence[str], rows: Sequence[int]) -> Iterator[tuple[Picture, ...]]:
        """See `PictureTable.pictures`."""
        for row in rows:
            tar, sample = self._samples[row]
            with tar.open("rb") as file:
                yield tuple(_member(file, sample.members.get(column)) for column in columns)

    def files(self) -> list[Path]:
        """See `PictureTable.files`."""
        return self._tars


def _member(file: Any, place: tuple[int, int] | None) -> Picture:
    if place is None:
        return None
    file.seek(place[0])
    return file.read(place[1])


def _read(tar: Path) -> list[Sample]:
    samples: dict[str, Sample] = {}
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in opened:
                if member.isfile():
                    _sort_in(tar, opened, member, samples)
    except (OSError, tarfile.TarError) as problem:
        raise UnusableSet(f"{tar} is not readable as an uncompressed tar file: {problem}") from None
    return list(samples.values())


def _sort_in(tar: Path, opened: tarfile.TarFile, member: tarfile.TarInfo, samples: dict[str, Sample]) -> None:
    folder, _, name = member.name.rpartition("/")
    stem, _, column = name.partition(".")
    sample = samples.setdefault(f"{folder}/{stem}", Sample())
    if column != "json" and column not in TEXT:
        sample.members[column] = (member.offset_data, member.size)
        return
    content = opened.extractfile(member)
    assert content is not None, "it is a file"
    try:
        text = content.read().decode()
        sample.values |= json.loads(text) if column == "json" else {column: TEXT[column](text.strip())}
    except (ValueError, TypeError) as problem:
        raise UnusableSet(f"{tar}, {member.name} is not readable: {problem}") from None
