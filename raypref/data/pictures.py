"""Pictures as files of them become pictures as an encoder takes them."""

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from raypref.data.table import Picture

FORMATS = ("JPEG", "PNG", "WEBP")
"""What is decoded; Pillow knows more, among them some that run programs."""


class Unreadable(ValueError):
    """Bytes that are no picture."""


def read_picture(content: Picture, side: int = 0) -> Float[Tensor, "3 S S"]:
    """The middle square of a picture in [0, 1], its shorter side resized to `side` (bilinear, as Diffusion-DPO does);
    0 leaves its size.

    Raises:
        Unreadable: where it cannot be decoded.
    """
    if not content:
        raise Unreadable("is missing")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as problem:  # Pillow's decoders raise errors of every kind over damaged files
        raise Unreadable(f"is not readable ({type(problem).__name__})") from None
    side = side or min(upright.size)
    scale = side / min(upright.size)
    width, height = (max(side, round(scale * length)) for length in upright.size)
    resized = upright.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    values = np.asarray(resized.crop((left, top, left + side, top + side)), np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()
