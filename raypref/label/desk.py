"""What lies before a person: the next pair, its pictures left and right, and how far they have come."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from raypref.core.seeding import Key
from raypref.data.pick_a_pic import Pair, write_pairs
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import UnusableSet
from raypref.data.table import Picture, PictureTable
from raypref.label.answers import LABELS, Answers, Choice, answers_file

Side = Literal["left", "right"]
LEFT_AND_RIGHT: tuple[tuple[Choice, Choice], ...] = (("first", "second"), ("second", "first"))
"""What is meant by the sides, by which picture is on the left."""
REMEMBERED = 16
"""Rows whose pictures are kept: a step back, and what a browser asks for again."""


class OutOfTurn(ValueError):
    """An answer to another pair than the one that is shown: a key that was pressed twice, or a second window."""


class Desk:
    """One set, one person. Calls may come from several threads."""

    def __init__(self, table: PictureTable, config: DataConfig, output: Path, seed: int) -> None:
        """Raises UnusableSet where the table has no such columns, or `output` belongs to other answers."""
        if len(config.images) != 2:
            raise UnusableSet(f"images = {list(config.images)}: name two columns, to choose between")
        table.check_columns(config.images, "images")
        table.check_columns((config.caption,), "caption")
        self.table, self.config, self.output = table, config, output
        self.captions = [str(caption or "") for caption in table.values(config.caption)]
        self._key, self._turn = Key(seed)("side"), threading.RLock()
        self._pictures = InOrder(table, config.images)
        captions = hashlib.blake2b("\0".join(self.captions).encode(), digest_size=16).hexdigest()
        # Without times: a person's work shall go on with a copy of the set.
        data = {"files": table.identity(times=False), "captions": captions}
        about: dict[str, object] = {"data": data, "images": list(config.images), "seed": seed}
        self.answers = Answers(answers_file(output), about)

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        with self._turn:
            done = len(self.answers.given)
            row = self.row()
            shown = {} if row is None else {"row": row, "caption": self.captions[row]}
            return {"done": done, "total": len(self.table), "last": self.answers.last()} | shown

    def row(self) -> int | None:
        """The pair that is to be answered; None after the last. Rows come in the set's order."""
        done = len(self.answers.given)
        return done if done < len(self.table) else None

    def answer(self, row: int, choice: str) -> None:
        """left, right, tie or neither, for the row that is shown.

        Raises:
            OutOfTurn: where another one is.
            ValueError: where there is no such choice.
        """
        with self._turn:
            if row != self.row():
                raise OutOfTurn(f"row {row} is not the one to be answered, {self.row()} is")
            self.answers.give(row, self._meant(row, choice))

    def undo(self, row: int) -> None:
        """Takes the last answer back.

        Raises:
            OutOfTurn: where it was not about that row.
        """
        with self._turn:
            if row != self.answers.last():
                raise OutOfTurn(f"row {row} was not answered last")
            self.answers.take_back(row)

    def picture(self, row: int, side: Side) -> Picture:
        """The picture that a row shows on a side."""
        with self._turn:
            pictures = self._pictures.row(row)
        return pictures[self._left(row) if side == "left" else 1 - self._left(row)]

    def export(self) -> int:
        """Writes all pairs that have been answered, as Parquet; how many."""
        with self._turn:
            return write_pairs(self.output, self._answered()) if self.answers.given else 0

    def _answered(self) -> Iterator[Pair]:
        for row, choice in sorted(self.answers.given.items()):
            first, second = self._pictures.row(row)
            yield Pair((first or b"", second or b""), self.captions[row], LABELS[choice])

    def _left(self, row: int) -> int:
        """Which picture is on the left: as likely one as the other, whoever made the set in whatever order."""
        return self._key(row).integer(2)

    def _meant(self, row: int, choice: str) -> Choice:
        left, right = LEFT_AND_RIGHT[self._left(row)]
        meant: dict[str, Choice] = {"left": left, "right": right, "tie": "tie", "neither": "neither"}
        if choice not in meant:
            raise ValueError(f"choice = {choice!r}: use {', '.join(meant)}")
        return meant[choice]


class InOrder:
    """Pictures of rows that are mostly asked for one after the other: a group of a file is read through but once."""

    def __init__(self, table: PictureTable, columns: tuple[str, ...]) -> None:
        self.table, self.columns = table, columns
        self._known: OrderedDict[int, tuple[Picture, ...]] = OrderedDict()
        self._coming: Iterator[tuple[Picture, ...]] = iter(())
        self._next = -1

    def row(self, row: int) -> tuple[Picture, ...]:
        """The pictures of a row."""
        if row not in self._known:
            group = next(group for group in self.table.groups() if row in group)
            if row != self._next or row == group.start:
                self._coming = self.table.pictures(self.columns, range(row, group.stop))
            self._known[row], self._next = next(self._coming), row + 1
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[row]
