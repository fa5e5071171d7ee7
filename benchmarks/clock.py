"""CPU and wall seconds by part of the work, and their ratios as JSON lines."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median


class Clock:
    """Adds up what is measured under each name."""

    def __init__(self) -> None:
        self.cpu, self.wall = defaultdict[str, float](float), defaultdict[str, float](float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu[name] += time.process_time() - cpu
            self.wall[name] += time.perf_counter() - wall

    def exclude(self, whole: str, part: str) -> None:
        """Takes what was measured inside of a part out of the whole."""
        for seconds in (self.cpu, self.wall):
            seconds[whole] -= seconds[part]


def tell(name: str, ratios: list[float], **facts: object) -> None:
    """One JSON line: the median of a ratio over rounds, and its spread."""
    figures = {"name": name, "ratio": median(ratios), "min": min(ratios), "max": max(ratios), "rounds": len(ratios)}
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in (figures | facts).items()}
    print(json.dumps(rounded), flush=True)
