"""What a person has answered: a log that only grows, so that a kill costs at most the answer that was on its way."""

import json
import os
from pathlib import Path
from typing import Literal

from raypref.data.preferences import UnusableSet

Choice = Literal["first", "second", "tie", "neither"]
"""first, second: that picture of the row is better. neither: it cannot be told, a picture is broken, say."""
LABELS: dict[str, tuple[float, float] | None] = {
    "first": (1.0, 0.0),
    "second": (0.0, 1.0),
    "tie": (0.5, 0.5),
    "neither": None,
}


def answers_file(output: Path) -> Path:
    """Where the answers lie that become `output`."""
    return output.with_name(f"{output.name}.answers.jsonl")


class Answers:
    """Answers by row, in the order in which they were given. A line of the log is an answer or takes one back."""

    def __init__(self, file: Path, about: dict[str, object]) -> None:
        """Goes on with the log where there is one; otherwise the first answer begins one. `about` says which set, in
        which order of sides, is answered.

        Raises:
            UnusableSet: where the log is about something else.
        """
        self.file, self.about, self.given = file, about, dict[int, Choice]()
        first, *lines = self._whole_lines() or [""]
        if first and json.loads(first) != about:
            raise UnusableSet(f"{file} holds answers about another set, or with another seed; name another output")
        for line in lines:
            self._apply(**json.loads(line))
        self._log = self._open() if first else None

    def give(self, row: int, choice: Choice) -> None:
        """Keeps an answer. It is on the disk when this returns."""
        self._keep(row, choice)

    def last(self) -> int | None:
        """The row that was answered last."""
        return next(reversed(self.given), None)

    def take_back(self, row: int) -> None:
        """Forgets the answer to a row."""
        self._keep(row, None)

    def close(self) -> None:
        if self._log is not None:
            os.close(self._log)

    def _keep(self, row: int, choice: Choice | None) -> None:
        self._append({"row": row, "choice": choice})
        self._apply(row, choice)

    def _apply(self, row: int, choice: Choice | None) -> None:
        if choice is None:
            del self.given[row]
        else:
            self.given[row] = choice

    def _open(self) -> int:
        return os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _append(self, line: dict[str, object]) -> None:
        if self._log is None:
            self._log = self._open()
            self._append(self.about)
        os.write(self._log, json.dumps(line).encode() + b"\n")  # in one piece, or not
        os.fsync(self._log)

    def _whole_lines(self) -> list[str]:
        """The log without a last line that was cut off, which is cut off the file too."""
        if not self.file.exists():
            return []
        content = self.file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.file, len(whole))
        return whole.decode().splitlines()
