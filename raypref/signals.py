"""Signals that end a run in order: its last finished iteration is checkpointed first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from raypref.train.stopped import Terminated

ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turns SIGTERM and SIGINT into `Terminated`, once: a second one does not disturb the checkpoint. Outside the main
    thread, where Python allows no handlers, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)
        raise Terminated(number)

    before = {ending: signal.signal(ending, end) for ending in ENDING}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
