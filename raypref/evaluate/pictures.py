"""Pictures that users bring: files of a folder, each a square of colours."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name.

    Raises:
        ValueError: where there is no such folder, or a file of it is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    for file in files:
        check_picture(file)
    return files


def check_picture(file: Path) -> None:
    """Raises ValueError where a file cannot be read as a picture."""
    try:
        with Image.open(file) as picture:
            picture.verify()
    except (OSError, SyntaxError) as problem:
        raise ValueError(f"{file}: not readable as a picture ({problem}); repair or remove it") from None


def read_picture(content: bytes, side: int = 0) -> Float[Tensor, "3 side side"]:
    """The middle square of a picture in [0, 1]; `side` resizes it."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    picture = picture.crop((left, top, left + short, top + short))
    if side and side != short:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
