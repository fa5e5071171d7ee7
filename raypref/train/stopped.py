"""The errors of a run that cannot usefully go on, although nothing is broken."""

import signal


class StoppedRun(RuntimeError):
    """Says why and what to do. Everything that was computed is in the run directory."""


class Terminated(StoppedRun):
    """Somebody asked the process to end."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.signal_number).name}; if it had begun, `raypref resume` goes on"
