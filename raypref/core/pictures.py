"""What pictures alone tell of a policy's health: are those of one prompt still different, are they burnt out?"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def diversity(images: UInt8[Tensor, "P n height width 3"]) -> float:
    """Mean absolute pixel difference, on [0, 1], between pictures of one prompt, over all their pairs.

    0 where every picture of a prompt is the same: the collapse that a rising reward can hide.
    """
    return float(_differences(_colours(images)).mean())


def form_diversity(images: UInt8[Tensor, "P n height width 3"]) -> float:
    """The same on grey pictures standardised to mean 0 and standard deviation 1.

    Stronger colour or contrast raises `diversity` by itself; this sees only whether the forms still differ.
    """
    return float(_differences(_forms(images)).mean())


def diversity_by_prompt(images: UInt8[Tensor, "P n height width 3"]) -> Float[Tensor, " P"]:
    """See `diversity`."""
    return torch.cat([_differences(_colours(one)).mean((1, 2)) for one in images.split(1)])


def form_diversity_by_prompt(images: UInt8[Tensor, "P n height width 3"]) -> Float[Tensor, " P"]:
    """See `form_diversity`."""
    return torch.cat([_differences(_forms(one)).mean((1, 2)) for one in images.split(1)])


def saturation(images: UInt8[Tensor, "*n height width 3"]) -> float:
    """The share of all colour values that are 0 or 255."""
    return float(((images == 0) | (images == 255)).float().mean())


def _colours(images: UInt8[Tensor, "P n height width 3"]) -> Float[Tensor, "P n pixels"]:
    return images.float().flatten(2) / 255


def _forms(images: UInt8[Tensor, "P n height width 3"]) -> Float[Tensor, "P n pixels"]:
    grey = images.float().mean(-1).flatten(2)
    return (grey - grey.mean(-1, keepdim=True)) / grey.std(-1, keepdim=True).clamp(min=1.0)


def _differences(values: Float[Tensor, "P n pixels"]) -> Float[Tensor, "P pairs pixels"]:
    copies = values.shape[1]
    first, second = torch.triu_indices(copies, copies, offset=1)
    return (values[:, first] - values[:, second]).abs()
