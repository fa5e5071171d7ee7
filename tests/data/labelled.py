"""The same few labelled pairs in every format that raypref reads."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet

Row = dict[str, Any]


def picture(number: int, size: tuple[int, int] = (20, 16), kind: str = "PNG") -> bytes:
    """A picture of noise; the number decides which."""
    values = torch.randint(256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(number))
    file = io.BytesIO()
    Image.fromarray(values.to(torch.uint8).numpy()).save(file, kind)
    return file.getvalue()


def pair(number: int, caption: str, label_0: float | None, label_1: float | None) -> Row:
    """A row as Pick-a-Pic v2 has them."""
    pictures = {"jpg_0": picture(2 * number), "jpg_1": picture(2 * number + 1)}
    known = label_0 is not None
    return pictures | {"caption": caption, "label_0": label_0, "label_1": label_1, "has_label": known}


PAIRS = (
    pair(0, "a cat", 1.0, 0.0),
    pair(1, "a dog", 0.0, 1.0),
    pair(2, "an owl", 0.5, 0.5),
    pair(3, "a cat", 0.0, 1.0),
    pair(4, "a cow", None, None),
    pair(5, "a\nhen ", 1.0, 0.0),
)


def write_parquet(path: Path, rows: Sequence[Row] = PAIRS, group: int = 4) -> Path:
    parquet.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path


def write_folder(folder: Path, rows: Sequence[Row] = PAIRS) -> Path:
    folder.mkdir()
    lines = []
    for number, row in enumerate(rows):
        line = dict(row)
        for name, value in row.items():
            if isinstance(value, bytes):
                line[name] = f"{number}_{name}.png"
                (folder / line[name]).write_bytes(value)
        lines.append(json.dumps(line))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_tar(path: Path, rows: Sequence[Row] = PAIRS) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows):
            plain = {name: value for name, value in row.items() if not isinstance(value, bytes)}
            members = {"json": json.dumps(plain).encode()} | {n: v for n, v in row.items() if isinstance(v, bytes)}
            for column, content in members.items():
                member = tarfile.TarInfo(f"set/{number:05d}.{column}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path
