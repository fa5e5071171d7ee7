"""The cache of the Hub's client, filled with small datasets in the layouts of the published ones."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from huggingface_hub import constants
from pyarrow import parquet

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRAIN = [f"a picture of the number {number}" for number in range(4100)]
UNIQUE = ["a cat in the rain", "zwei Bären", "a dog,\nasleep"]
STYLES = ("anime", "concept-art", "paintings", "photo")


def parquet_bytes(**columns: list[object]) -> bytes:
    """A Parquet file of these columns."""
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def papers_datasets() -> dict[str, dict[str, bytes]]:
    """Files by dataset: Pick-a-Pic, which lists a caption once a comparison; PartiPrompts; HPDv2's two."""
    captions = {"train": TRAIN + TRAIN[:50], "test": [*UNIQUE, *UNIQUE, "a fox"], "test_unique": UNIQUE}
    pick_a_pic = {
        f"data/{split}-00000-of-00001-0a1b2c3d4e5f6071.parquet": parquet_bytes(
            caption=prompts, label_0=[0.5] * len(prompts)
        )
        for split, prompts in captions.items()
    }
    parti = 'Prompt\tCategory\tNote\nbond\tAbstract\t\n"to be" on a "blue" sign\tArts\tx\n'
    benchmark = {f"benchmark/{style}.json": json.dumps([f"{style} one", f"{style} two"]).encode() for style in STYLES}
    train = json.dumps([{"prompt": "a hill", "human_preference": [1, 0]}, {"prompt": "a hill"}, {"prompt": "a lake"}])
    return {
        "yuvalkirstain/pickapic_v2_no_images": pick_a_pic,
        "nateraw/parti-prompts": {"PartiPrompts.tsv": parti.encode(), "README.md": b"# P2"},
        "zhwang/HPDv2": benchmark | {"benchmark/drawbench.json": b'["not one of the four"]'},
        "ymhao/HPDv2": {"train.json": train.encode()},
    }


def fill_cache(cache: Path, datasets: Mapping[str, Mapping[str, bytes]]) -> None:
    """Writes snapshots as the Hub's client leaves them."""
    for name, files in datasets.items():
        folder = cache / f"datasets--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        for path, content in files.items():
            file = folder / "snapshots" / COMMIT / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def use_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The Hub is out of reach, and this is its cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
