"""What a running job shows: a live line in a terminal, one plain line an iteration elsewhere (logs, jobs)."""

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG = logging.getLogger("raypref")


def clock(seconds: float) -> str:
    """Seconds as M:SS or H:MM:SS."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(text: str) -> None:
    """A line on stdout."""
    Console().print(text, highlight=False, soft_wrap=True, markup=False)


def warn(text: str) -> None:
    """A line on stderr."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True, markup=False)


class Lines(logging.Handler):
    """What the package logs, as lines: on the display, or, where something went wrong, on stderr."""

    def __init__(self, display: "Display") -> None:
        super().__init__()
        self.display = display

    def emit(self, record: logging.LogRecord) -> None:
        (warn if record.levelno >= logging.WARNING else self.display.say)(record.getMessage())


class Display:
    """Shows iterations, reward, speed and time left."""

    def __init__(self, total: int, done: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self.total, self.first = total, done
        self._started: float | None = None
        self._lines = Lines(self)
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]iteration {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(),
                TextColumn("{task.description}"),
                TextColumn("elapsed"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=self.console,
            )
            self._task = self._bar.add_task("starting", total=total, completed=done)

    def __enter__(self) -> "Display":
        if not LOG.hasHandlers():  # else its lines go where the program that uses the package sends them
            LOG.addHandler(self._lines)
            LOG.setLevel(logging.INFO)
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        LOG.removeHandler(self._lines)
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def updated(
        self, done: int, value: float, rows_per_second: float, name: str = "reward", rows: str = "pairs"
    ) -> None:
        """After an iteration, with the figure that it is watched by."""
        now = time.perf_counter()
        self._started = self._started or now
        facts = f"{name} {value:.4f}  {rows_per_second:.1f} {rows}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=facts)
            return
        measured = done - self.first - 1  # the first iteration starts the clock
        left = clock((self.total - done) * (now - self._started) / measured) if measured else "?"
        self.say(f"iteration {done}/{self.total}  {facts}  left {left}")
