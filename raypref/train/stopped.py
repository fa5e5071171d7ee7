"""The error of a run that cannot usefully go on, although nothing is broken."""


class StoppedRun(RuntimeError):
    """Says why and what to do. Everything that was computed is in the run directory."""
