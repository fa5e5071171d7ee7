"""What generated and aligned pictures look like to a classifier: over-saturated, flat, dark, blurred, noisy."""

import torch
import torch.nn.functional as F
from torch import Tensor


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """[B 1 1 1] factors, log-uniform."""
    share = torch.rand(count, 1, 1, 1, generator=generator)
    return torch.exp(share * (torch.log(torch.tensor(high / low)))) * low


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B 3 64 64] in [0, 1], each changed at random in saturation, contrast, brightness, sharpness, noise, facing."""
    count = len(images)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * uniform(count, 0.5, 2.0, generator)
    middle = images.mean((1, 2, 3), keepdim=True)
    images = middle + (images - middle) * uniform(count, 0.7, 1.4, generator)
    images = images * uniform(count, 0.75, 1.3, generator)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    images = images + (blurred - images) * share
    noise = torch.randn(images.shape, generator=generator)
    images = images + 0.06 * torch.rand(count, 1, 1, 1, generator=generator) * noise
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, images.flip(3), images).clamp(0, 1)
