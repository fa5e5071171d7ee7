"""Which rows of a set are used, who won, and how often the others were left out."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raypref.data.preference_source import DataConfig
from raypref.data.preferences import UnusableSet
from raypref.data.table import PictureTable

HAS_LABEL = "has_label"
"""Pick-a-Pic's column that says whether anybody has chosen; where there is none, every row counts."""


@dataclass(frozen=True)
class Chosen:
    """A row that is used."""

    row: int
    prompt: str
    label: float
    """Of a pair that its winner is preferred: 1, or 0.5; of a single picture: 1 or 0."""
    swapped: bool
    """Whether the second picture won."""


@dataclass(frozen=True)
class Selection:
    """What is used of a table, in its order."""

    chosen: tuple[Chosen, ...]
    left_out: dict[str, int]
    """Why, and how many, rows are not."""


def check_columns(table: PictureTable, config: DataConfig) -> None:
    """Raises UnusableSet where the table has no column that the config names."""
    table.check_columns(config.images, "images")
    table.check_columns((config.caption,), "caption")
    table.check_columns(config.labels, "labels")


def select(table: PictureTable, config: DataConfig) -> Selection:
    """Reads captions and labels.

    Raises:
        UnusableSet: where a column is missing, a value is not what it must be, or nothing is left.
    """
    check_columns(table, config)
    captions = table.values(config.caption)
    labels = [table.values(name) for name in config.labels]
    labelled = table.values(HAS_LABEL) if HAS_LABEL in table.columns else [True] * len(table)
    chosen, left_out, seen = list[Chosen](), Counter[str](), set[str]()
    for row, (caption, known, *given) in enumerate(zip(captions, labelled, *labels, strict=True)):
        found = _judge(row, caption, [_number(table, row, value) for value in given] if known else [None], config)
        if isinstance(found, Chosen) and config.duplicate_prompts == "first" and found.prompt in seen:
            found = "the prompt of an earlier row"
        if isinstance(found, str):
            left_out[found] += 1
            continue
        seen.add(found.prompt)
        chosen.append(found)
    if not chosen:
        raise UnusableSet(f"{table.path} has no row to train on: {dict(left_out)}")
    return Selection(tuple(chosen), dict(left_out))


def _judge(row: int, caption: Any, given: Sequence[float | None], config: DataConfig) -> Chosen | str:
    """The row, or why it is left out."""
    if not isinstance(caption, str):
        return "no caption"
    labels = [label for label in given if label is not None]
    if len(labels) < len(given):
        return "no label"
    prompt = " ".join(caption.split())
    if len(config.images) == 1:
        return Chosen(row, prompt, float(not labels or labels[0] > 0), False)
    first, second = labels or (1.0, 0.0)
    if first != second:
        return Chosen(row, prompt, 1.0, second > first)
    return Chosen(row, prompt, 0.5, False) if config.ties == "keep" else "a tie"


def _number(table: PictureTable, row: int, value: Any) -> float | None:
    """A label; None where there is none."""
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise UnusableSet(f"{table.path}, row {row} has the label {str(value)[:40]!r}, and no number")
    return None if math.isnan(value) else float(value)
