"""What the rewards' networks see of a picture. In torch, so that gradients reach it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def as_pil(image: Float[Tensor, "3 H W"]) -> Image.Image:
    """A picture in [0, 1], rounded to 8 bits a colour."""
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())


def clip_pixels(
    images: Float[Tensor, "B 3 H W"], size: int, antialias: bool = True
) -> Float[Tensor, "B 3 {size} {size}"]:
    """CLIP's preprocessing of pictures in [0, 1]: short side to `size` (bicubic), centre crop, normalise.

    Within one grey level of PIL's bicubic, a quarter in the mean, most of it PIL's rounding; ten at saturated edges, as
    PIL clips after each of its two passes. An odd border is split as torchvision does; transformers' own processor may
    cut one pixel further left.
    """
    height, width = images.shape[-2:]
    short = min(height, width)
    shape = (size * height // short, size * width // short)  # in integers: 224 / 320 * 360 is less than 252
    resized = F.interpolate(images, shape, mode="bicubic", antialias=antialias, align_corners=False).clamp(0, 1)
    top, left = round((shape[0] - size) / 2), round((shape[1] - size) / 2)
    return normalised(resized[..., top : top + size, left : left + size])


def padded_pixels(
    images: Float[Tensor, "B 3 H W"], size: int, antialias: bool = True
) -> Float[Tensor, "B 3 {size} {size}"]:
    """HPSv2's preprocessing of pictures in [0, 1]: long side to `size` (bicubic, not clamped), black borders,
    normalise. Nothing is cropped."""
    height, width = images.shape[-2:]
    scale = size / max(height, width)
    shape = (round(height * scale), round(width * scale))
    if scale != 1:
        images = F.interpolate(images, shape, mode="bicubic", antialias=antialias, align_corners=False)
    below, right = size - shape[0], size - shape[1]
    return normalised(F.pad(images, (right // 2, right - right // 2, below // 2, below - below // 2)))


def normalised(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Minus CLIP's mean, over its standard deviation."""
    mean, std = (torch.tensor(values).to(images).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std
