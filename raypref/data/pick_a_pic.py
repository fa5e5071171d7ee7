"""Writes pairs as Pick-a-Pic v2 has them: Parquet with the pictures inside."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypref.data.preferences import UnusableSet

GROUP = 64
"""Pairs of a row group: so many are in memory."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt, and which is preferred."""

    pictures: tuple[bytes, bytes]
    """Files: PNG, JPEG or WebP."""
    caption: str
    label: tuple[float, float] | None
    """(1, 0), (0, 1), or (0.5, 0.5) for a tie; None: nobody can tell."""
    models: tuple[str, str] = ("", "")
    scores: tuple[float, float] | None = None
    """Of the reward that labelled it."""


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """Writes a Parquet file, whole or not at all; how many pairs it holds.

    Columns are those of Pick-a-Pic v2 that are known here, and `score_0`, `score_1`. A pair without a label has
    `has_label` false, as there.

    Raises:
        UnusableSet: where pyarrow is not there.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UnusableSet("Parquet files need pyarrow; run `pip install raypref[parquet]`") from None
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    unfinished, count = path.with_name(f".{path.name}.unfinished"), 0
    with parquet.ParquetWriter(unfinished, schema) as writer:
        held: list[dict[str, Any]] = []
        for count, pair in enumerate(pairs, start=1):
            held.append(_row(count - 1, pair))
            if len(held) == GROUP:
                writer.write_table(pyarrow.Table.from_pylist(held, schema))
                held = []
        if held:
            writer.write_table(pyarrow.Table.from_pylist(held, schema))
    os.replace(unfinished, path)
    return count


COLUMNS = {
    "are_different": "bool_",
    "best_image_uid": "string",
    "caption": "string",
    "has_label": "bool_",
    "image_0_uid": "string",
    "image_1_uid": "string",
    "jpg_0": "binary",
    "jpg_1": "binary",
    "label_0": "float64",
    "label_1": "float64",
    "model_0": "string",
    "model_1": "string",
    "ranking_id": "int64",
    "score_0": "float64",
    "score_1": "float64",
}


def _row(number: int, pair: Pair) -> dict[str, Any]:
    uids = [hashlib.blake2b(content, digest_size=16).hexdigest() for content in pair.pictures]
    labels, scores = pair.label or (0.0, 0.0), pair.scores or (None, None)
    best = uids[labels.index(1.0)] if 1.0 in labels else "tie"
    return {
        "are_different": uids[0] != uids[1],
        "best_image_uid": best if pair.label else "",
        "caption": pair.caption,
        "has_label": pair.label is not None,
        "ranking_id": number,
        **{f"image_{which}_uid": uids[which] for which in range(2)},
        **{f"jpg_{which}": pair.pictures[which] for which in range(2)},
        **{f"label_{which}": labels[which] for which in range(2)},
        **{f"model_{which}": pair.models[which] for which in range(2)},
        **{f"score_{which}": scores[which] for which in range(2)},
    }
