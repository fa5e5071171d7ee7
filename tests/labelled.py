"""Small sets of labelled latents."""

from pathlib import Path

import torch

from raypref.data.set_writer import write_set

PROMPTS = ("a", "d", "o", "k", "q")


def labelled_set(folder: Path, shape: tuple[int, int, int]) -> Path:
    """Five pairs, among them a tie, written once: winners lie around 0.5, losers around -0.5."""
    if not (folder / "manifest.json").exists():
        noise = torch.randn(len(PROMPTS), 1, 2, *shape, generator=torch.Generator().manual_seed(5))
        centre = torch.tensor([0.5, -0.5])[:, None, None, None]
        write_set(folder, centre + noise, PROMPTS, torch.tensor([1.0, 1.0, 1.0, 0.5, 1.0]))
    return folder
