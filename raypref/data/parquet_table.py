"""Parquet with pictures inside, as Pick-a-Pic v2 has them: bytes, or the struct that `datasets` makes of an image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from raypref.data.preferences import UnusableSet
from raypref.data.table import Picture, PictureTable

AT_ONCE = 8
"""Rows of pictures that are held in memory."""


class ParquetTable(PictureTable):
    """Files with the same columns, read a row group at a time."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        """Raises UnusableSet where a file is not readable or has other columns, or pyarrow is not there."""
        self.path = path
        self._files = list(files)
        self.columns = tuple(self._opened[0].schema_arrow.names)
        for file, opened in zip(self._files, self._opened, strict=True):
            if other := set(self.columns) ^ set(opened.schema_arrow.names):
                raise UnusableSet(
                    f"{self._files[0]} and {file} do not have the same columns: only one of them has "
                    f"{', '.join(sorted(other))}; write both alike, or name one file"
                )

    @cached_property
    def _opened(self) -> list[Any]:
        """Without read-ahead: a row group of pictures may be larger than the memory."""
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise UnusableSet("Parquet files need pyarrow; run `pip install raypref[parquet]`") from None
        found = []
        for file in self._files:
            try:
                found.append(parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False))
            except (OSError, ArrowException) as problem:
                raise UnusableSet(f"{file} is not readable as Parquet: {problem}") from None
        return found

    @cached_property
    def _places(self) -> list[tuple[range, int, int]]:
        """Of each row group its rows, its file and its number there."""
        groups = [
            (file, group, opened.metadata.row_group(group).num_rows)
            for file, opened in enumerate(self._opened)
            for group in range(opened.num_row_groups)
        ]
        starts = [0]
        for _, _, count in groups:
            starts.append(starts[-1] + count)
        ranges = [range(start, stop) for start, stop in pairwise(starts)]
        return [(rows, file, group) for rows, (file, group, _) in zip(ranges, groups, strict=True)]

    def __len__(self) -> int:
        return self._places[-1][0].stop if self._places else 0

    def groups(self) -> tuple[range, ...]:
        """See `PictureTable.groups`."""
        return tuple(rows for rows, _, _ in self._places)

    def values(self, column: str) -> list[Any]:
        """See `PictureTable.values`."""
        return [value for file in range(len(self._files)) for value in self._column(file, column)]

    def _column(self, file: int, column: str) -> list[Any]:
        with self._telling_damage(file):
            return self._opened[file].read([column])[column].to_pylist()

    def pictures(self, columns: Sequence[str], rows: Sequence[int]) -> Iterator[tuple[Picture, ...]]:
        """See `PictureTable.pictures`."""
        if not rows:
            return
        inside, file, group = next(place for place in self._places if rows[0] in place[0])
        wanted, at = set(rows), inside.start
        names = list(dict.fromkeys(columns))
        for batch in self._batches(file, group, names):
            if at > rows[-1]:
                return
            kept = [row - at for row in range(at, at + len(batch)) if row in wanted]
            at += len(batch)
            for index in kept:
                yield tuple(_content(batch.column(name)[index].as_py()) for name in columns)

    def _batches(self, file: int, group: int, columns: list[str]) -> Iterator[Any]:
        with self._telling_damage(file):
            yield from self._opened[file].iter_batches(AT_ONCE, row_groups=[group], columns=columns)

    @contextmanager
    def _telling_damage(self, file: int) -> Iterator[None]:
        from pyarrow import ArrowException

        try:
            yield
        except (OSError, ArrowException) as problem:
            raise UnusableSet(f"{self._files[file]} is damaged: {problem}") from None

    def files(self) -> list[Path]:
        """See `PictureTable.files`."""
        return self._files


def _content(value: Any) -> Picture:
    """Bytes, or {"bytes": ..., "path": ...} as `datasets` writes them."""
    return value.get("bytes") if isinstance(value, dict) else value
