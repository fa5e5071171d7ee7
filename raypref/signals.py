"""Signals that end a run in order: its last finished iteration is checkpointed first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from raypref.train.stopped import Terminated


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turns the first SIGTERM or SIGINT into `Terminated`. A second SIGTERM does not disturb the checkpoint; a second
    SIGINT ends the process at once. Outside the main thread, where Python allows no handlers, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt  # what Ray's waits, and all else that is not Python, are ready for

    before = {ending: signal.signal(ending, end) for ending in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        if not received:
            raise
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
    if received:  # even where a destructor has swallowed the interrupt
        raise Terminated(received[0])
