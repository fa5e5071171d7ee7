"""Prompts of one file: lines of text, or a column of JSON lines, JSON, CSV, TSV or Parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


def read_file(path: Path, column: str) -> tuple[str, ...]:
    """The prompts of a file, by its suffix; any but those of tables is text, one prompt a line.

    Empty prompts do not count, and line breaks inside a prompt become spaces. A table lists a prompt once for each of
    its pictures or comparisons, so what it repeats counts once; a line of text that stands twice counts twice.

    Args:
        path: the file.
        column: of a table, where the prompts are.

    Raises:
        ValueError: where the file is not what its suffix says, or has no such column of text.
    """
    if path.suffix not in TABLES:
        return tuple(line.strip() for line in _text(path).splitlines() if line.strip())
    found = (" ".join(prompt.splitlines()).strip() for prompt in TABLES[path.suffix](path, column))
    return tuple(dict.fromkeys(prompt for prompt in found if prompt))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} is not readable as UTF-8 text: {problem}") from None


def _json_lines(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield _prompt(_json(line, f"{path}, line {number}"), column, f"{path}, line {number}")


def _json_list(path: Path, column: str) -> Iterator[str]:
    rows = _json(_text(path), str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds no list; write [...] of prompts, or of objects with a {column!r}")
    for number, row in enumerate(rows, start=1):
        yield _prompt(row, column, f"{path}, entry {number}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{where} is not valid JSON: {problem}") from None


def _prompt(row: Any, column: str, where: str) -> str:
    """A bare string, or what an object has under `column`; nothing counts as empty."""
    if isinstance(row, dict):
        _check_column(column, row, where)
        row = row[column]
    if row is not None and not isinstance(row, str):
        raise ValueError(f"{where} is {str(row)[:40]!r}, and no text")
    return row or ""


def _separated(delimiter: str, **dialect: Any) -> Callable[[Path, str], Iterator[str]]:
    def read(path: Path, column: str) -> Iterator[str]:
        rows = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter=delimiter, **dialect)
        try:
            _check_column(column, rows.fieldnames or (), str(path))
            for row in rows:
                if any(row.get(None, ())):
                    raise csv.Error(f"it has more cells than the header; does a cell hold an unquoted {delimiter!r}?")
                yield row[column] or ""
        except csv.Error as problem:
            raise ValueError(f"{path}, line {rows.reader.line_num} is not readable as a table: {problem}") from None

    return read


def _parquet(path: Path, column: str) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError("Parquet files need pyarrow; run `pip install raypref[parquet]`") from None
    try:
        _check_column(column, parquet.read_schema(path).names, str(path))
        values = parquet.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, ArrowException) as problem:
        raise ValueError(f"{path} is not readable as Parquet: {problem}") from None
    return (_prompt(value, column, f"{path}, {column!r} of row {row}") for row, value in enumerate(values, start=1))


def _check_column(column: str, known: Iterable[str], where: str) -> None:
    if column not in known:
        raise ValueError(f"{where} has no column {column!r}; set column to one of {', '.join(known) or 'none'}")


TABLES: dict[str, Callable[[Path, str], Iterable[str]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _separated(",", strict=True),
    ".tsv": _separated("\t", quoting=csv.QUOTE_NONE),  # a tab cannot be quoted there, and a quote is one
    ".parquet": _parquet,
}
"""How a table is read, by its suffix."""
