"""The drawn pictures on disk: made once, from a seed, by all cores."""

import os
from multiprocessing import Pool
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from experiments.tiny_model.draw import SIDE, draw
from experiments.tiny_model.vocabulary import Caption, every_caption

RUNS = Path("runs/tiny_model")
"""Everything that training leaves behind; ignored by git."""
TRAIN_PICTURES = 23_040
HELDOUT_PICTURES = 1_440
CAPTIONS = every_caption()


def caption_of(index: int) -> Caption:
    """Picture i of a split shows caption i modulo the number of captions, so the captions are balanced."""
    return CAPTIONS[index % len(CAPTIONS)]


def render(task: tuple[str, int]) -> NDArray[np.uint8]:
    split, index = task
    return np.asarray(draw(caption_of(index), Random(f"{split}-{index}")))


def pictures(split: str) -> NDArray[np.uint8]:
    """[N 64 64 3] uint8, split "train" or "heldout": the same captions, different drawings."""
    path = RUNS / f"{split}.npy"
    if not path.exists():
        count = {"train": TRAIN_PICTURES, "heldout": HELDOUT_PICTURES}[split]
        path.parent.mkdir(parents=True, exist_ok=True)
        with Pool(os.cpu_count()) as pool:
            drawn = pool.map(render, [(split, i) for i in range(count)], chunksize=256)
        part = path.with_suffix(".part.npy")
        np.save(part, np.stack(drawn).reshape(count, SIDE, SIDE, 3))
        part.replace(path)
    return np.load(path)  # type: ignore[no-any-return]


if __name__ == "__main__":
    for name in ("train", "heldout"):
        print(name, pictures(name).shape)
