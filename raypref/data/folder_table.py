"""A folder of pictures, with JSON lines that name them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raypref.data.preferences import UnusableSet
from raypref.data.table import Picture, PictureTable


class FolderTable(PictureTable):
    """A .jsonl file, or a folder with one. Columns with pictures hold the names of files beside it."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        """`files` are the .jsonl files that may be meant. Raises UnusableSet where it is not clear which is, or its
        lines are no JSON objects."""
        self.path = path
        self._lines = the_json_lines(path, files)
        self._rows = list(_objects(self._lines))
        self.columns = tuple(dict.fromkeys(name for row in self._rows for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    def groups(self) -> tuple[range, ...]:
        """See `PictureTable.groups`."""
        return (range(len(self)),)

    def values(self, column: str) -> list[Any]:
        """See `PictureTable.values`."""
        return [row.get(column) for row in self._rows]

    def pictures(self, columns: Sequence[str], rows: Sequence[int]) -> Iterator[tuple[Picture, ...]]:
        """See `PictureTable.pictures`."""
        for row in rows:
            yield tuple(self._content(self._rows[row].get(column)) for column in columns)

    def files(self) -> Iterator[Path]:
        """See `PictureTable.files`."""
        yield self._lines
        names = {value for row in self._rows for value in row.values() if isinstance(value, str)}
        for name in sorted(names):
            if _is_file(self._lines.parent / name):
                yield self._lines.parent / name

    def folder(self) -> Path:
        """See `PictureTable.folder`."""
        return self._lines.parent

    def _content(self, name: Any) -> Picture:
        file = self._lines.parent / name if isinstance(name, str) else None
        return file.read_bytes() if file is not None and _is_file(file) else None


def _is_file(place: Path) -> bool:
    """Whether a string of a row names a file; it may as well be a prompt of any length."""
    try:
        return place.is_file()
    except OSError:
        return False


def the_json_lines(path: Path, files: Sequence[Path]) -> Path:
    """The one .jsonl file, or the metadata.jsonl of the folder itself among several.

    Raises:
        UnusableSet: where it is not clear.
    """
    if len(files) == 1:
        return files[0]
    if path / "metadata.jsonl" in files:
        return path / "metadata.jsonl"
    names = ", ".join(file.relative_to(path).as_posix() for file in files)
    raise UnusableSet(f"{path} has several .jsonl files; name one of {names}")


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise UnusableSet(f"{file} is not readable as UTF-8 text: {problem}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            raise UnusableSet(f"{file}, line {number} is not valid JSON: {problem}") from None
        if not isinstance(row, dict):
            raise UnusableSet(f"{file}, line {number} is {line[:40]!r}, and no object")
        yield row
