"""Pictures that users bring for evaluation: a folder of them, or a list of edits."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""What is read; Pillow knows more, among them some that run programs."""


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name.

    Raises:
        ValueError: where there is no such folder, or a file of it cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in FORMATS)
    for file in files:
        check_picture(file)
    return files


def list_edits(file: Path) -> list[tuple[Path, str]]:
    """Pictures and the prompts that describe what they are to become: JSON lines such as
    {"image": "boat.png", "prompt": "a boat in a storm"}, with paths beside the file.

    Raises:
        ValueError: where the file, a line of it or a picture cannot be read.
    """
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_edit(line, file, number))
    if not found:
        raise ValueError(f"{file}: it holds no edit")
    return found


def _edit(line: str, file: Path, number: int) -> tuple[Path, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{file}, line {number}: no JSON ({problem})") from None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) and row[key] for key in ("image", "prompt")):
        raise ValueError(f'{file}, line {number}: write {{"image": "boat.png", "prompt": "a boat in a storm"}}')
    picture = file.parent / row["image"]
    check_picture(picture)
    return picture, row["prompt"]


def check_picture(file: Path) -> None:
    """Raises ValueError where a file cannot be read as a picture."""
    try:
        with Image.open(file, formats=tuple(set(FORMATS.values()))) as picture:
            picture.verify()
    except Exception as problem:  # Pillow's decoders raise errors of every kind over damaged files
        raise ValueError(f"{file}: not readable as a picture ({type(problem).__name__})") from None


def read_square(content: bytes, side: int = 0) -> Float[Tensor, "3 side side"]:
    """The middle square of a picture in [0, 1]; `side` resizes it."""
    with Image.open(io.BytesIO(content), formats=tuple(set(FORMATS.values()))) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    picture = picture.crop((left, top, left + short, top + short))
    if side and side != short:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
