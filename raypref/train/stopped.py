"""The errors of a run that cannot usefully go on, although nothing is broken."""

import signal


class StoppedRun(RuntimeError):
    """Says why and what to do. Everything that was computed is in the run directory."""


class Terminated(StoppedRun):
    """Somebody asked the process to end."""

    def __init__(self, signal_number: int, further: str = "; if it had begun, `raypref resume` goes on") -> None:
        """`further`: where things stand, and how to go on."""
        super().__init__(signal_number, further)
        self.signal_number, self.further = signal_number, further

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.signal_number).name}{self.further}"
