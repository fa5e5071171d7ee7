"""What an answer looks like: a table of figures, each with how sure it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """A figure over prompts. NaN where nothing was scored, or where one prompt leaves its error unknown."""

    mean: float
    standard_error: float
    low: float
    """With `high`: a 95 % interval, see `raypref.evaluate.bootstrap`."""
    high: float
    n: int
    """Prompts (or, where a table says so, pictures) that it is of."""

    def parts(self) -> tuple[str, str]:
        """The mean with its error, and the interval; what is not known is left out."""
        error = "" if math.isnan(self.standard_error) else f" ± {self.standard_error:.2g}"
        return f"{self.mean:.4g}{error}", "" if math.isnan(self.low) else f"[{self.low:.4g}, {self.high:.4g}]"

    def __str__(self) -> str:
        return " ".join(part for part in self.parts() if part)


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    labels: tuple[str, ...]
    """What it is of: one a head of the table."""
    cells: tuple[Measured, ...]
    """One a column of the table."""


@dataclass(frozen=True)
class Table:
    """The answer to a question."""

    question: str
    caption: str
    """What was done and what the figures mean, in a sentence or two."""
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What else a reader must know: missing scores, what was not to be had."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.labels) != len(self.heads) or len(row.cells) != len(self.columns):
                raise ValueError(f"row {row.labels}: the table has heads {self.heads} and columns {self.columns}")

    def cell(self, *labels: str, column: str) -> Measured:
        """The figure of the row with these labels."""
        row = next(row for row in self.rows if row.labels == labels)
        return row.cells[self.columns.index(column)]

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> "Table":
        """The table that `dataclasses.asdict` and JSON made this of."""
        rows = tuple(
            Row(tuple(row["labels"]), tuple(Measured(**cell) for cell in row["cells"])) for row in saved["rows"]
        )
        words = {name: tuple(saved[name]) for name in ("heads", "columns", "notes")}
        return cls(question=saved["question"], caption=saved["caption"], rows=rows, **words)
