"""Signals that end a run in order: its last finished iteration is checkpointed first."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from raypref.train.stopped import Terminated


@dataclass
class Ending:
    """What the main thread knows of being asked to end."""

    received: list[int] = field(default_factory=list)
    """Signals, since `ending_in_order` began."""
    sections: int = 0
    """How many `undisturbed` sections it is in."""
    waits: bool = False
    """Whether an interrupt waits for the last of them to end."""


_ending = Ending()


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turns the first SIGTERM or SIGINT into `Terminated`. A second SIGTERM does not disturb the checkpoint; a second
    SIGINT ends the process at once. Outside the main thread, where Python allows no handlers, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outside, received = _ending.received, list[int]()
    _ending.received = received
    before = {ending: signal.signal(ending, _end) for ending in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        if not received:
            raise
    finally:
        _ending.received, _ending.waits = outside, False
        for ending, handler in before.items():
            signal.signal(ending, handler)
    if received:  # even where a destructor has swallowed the interrupt
        raise Terminated(received[0])


def _end(number: int, frame: FrameType | None) -> None:
    _ending.received.append(number)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _ending.sections:
        _ending.waits = True
        return
    raise KeyboardInterrupt  # what Ray's waits, and all else that is not Python, are ready for


@contextmanager
def undisturbed() -> Iterator[None]:
    """A signal that comes meanwhile takes effect at the end. Half of a file is then never written, and no library is
    interrupted between taking a lock and noting that it has it: whoever asked for that lock next would wait for ever.
    Where an error is on its way already, it stays the reason.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    failing = sys.exception() is not None
    _ending.sections += 1
    try:
        yield
    finally:
        _ending.sections -= 1
    if _ending.waits and not _ending.sections and not failing:
        _ending.waits = False
        raise KeyboardInterrupt
