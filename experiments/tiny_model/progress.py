"""Progress lines and atomic checkpoints for the three trainers."""

import time
from pathlib import Path
from typing import Any

import torch


class Progress:
    """Prints step, a running mean of the loss, steps a second and the time left."""

    def __init__(self, label: str, total: int, start: int = 0, every: int = 100) -> None:
        self.label, self.total, self.start, self.every = label, total, start, every
        self.began = time.time()
        self.mean: float | None = None

    def __call__(self, step: int, loss: float) -> None:
        self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
        if step % self.every == 0 or step == self.total:
            rate = (step - self.start) / (time.time() - self.began)
            eta = (self.total - step) / rate / 60
            print(
                f"{time.strftime('%H:%M:%S')} {self.label} {step}/{self.total} "
                f"loss {self.mean:.4f} {rate:.2f} steps/s ETA {eta:.1f} min",
                flush=True,
            )


def save(path: Path, state: dict[str, Any]) -> None:
    """Write then rename, so that a kill leaves the previous checkpoint whole."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none yet."""
    return torch.load(path, weights_only=True) if path.exists() else None
