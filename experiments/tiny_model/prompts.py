"""Writes the training and held-out prompts of the alignment experiments: `python -m experiments.tiny_model.prompts`.

Both lists cover every colour, animal and place evenly, and share no prompt.
"""

from itertools import count
from pathlib import Path
from random import Random

from experiments.tiny_model.vocabulary import ANIMALS, COLOURS, PLACES, Caption

FOLDER = Path("experiments/prompts")
TRAIN, HELDOUT = 64, 24


def balanced(total: int, rng: Random, taken: set[Caption]) -> list[Caption]:
    """`total` new captions: each attribute's values equally often, shuffled until all captions differ."""
    for _ in count():
        columns = []
        for values in (["", "", "small", "big"], list(COLOURS), list(ANIMALS), list(PLACES)):
            column = [values[i % len(values)] for i in range(total)]
            rng.shuffle(column)
            columns.append(column)
        captions = [Caption(*words) for words in zip(*columns, strict=True)]
        if len(set(captions)) == total and not taken & set(captions):
            return captions
    raise AssertionError


def main() -> None:
    rng = Random(0)
    train = balanced(TRAIN, rng, set())
    heldout = balanced(HELDOUT, rng, set(train))
    for name, captions in (("animals_train", train), ("animals_heldout", heldout)):
        (FOLDER / f"{name}.txt").write_text("".join(f"{caption}\n" for caption in captions))


if __name__ == "__main__":
    main()
