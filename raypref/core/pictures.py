"""What pictures alone tell of a policy's health: are those of one prompt still different, are they burnt out?"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def diversity(images: UInt8[Tensor, "P n height width 3"]) -> float:
    """Mean absolute pixel difference, on [0, 1], between pictures of one prompt, over all their pairs.

    0 where every picture of a prompt is the same: the collapse that a rising reward can hide.
    """
    return _spread(images.float().flatten(2) / 255)


def form_diversity(images: UInt8[Tensor, "P n height width 3"]) -> float:
    """The same on grey pictures standardised to mean 0 and standard deviation 1.

    Stronger colour or contrast raises `diversity` by itself; this sees only whether the forms still differ.
    """
    grey = images.float().mean(-1).flatten(2)  # [P n pixels]
    return _spread((grey - grey.mean(-1, keepdim=True)) / grey.std(-1, keepdim=True).clamp(min=1.0))


def saturation(images: UInt8[Tensor, "*n height width 3"]) -> float:
    """The share of all colour values that are 0 or 255."""
    return float(((images == 0) | (images == 255)).float().mean())


def _spread(values: Float[Tensor, "P n pixels"]) -> float:
    copies = values.shape[1]
    first, second = torch.triu_indices(copies, copies, offset=1)
    return float((values[:, first] - values[:, second]).abs().mean())
