"""Preprocessing in torch against what PIL makes of the same pictures."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor  # on PIL, where there is no torchvision

from raypref.rewards.pixels import CLIP_MEAN, CLIP_STD, clip_pixels, padded_pixels

GREY_LEVEL = 1 / 255 / min(CLIP_STD)


def picture(height: int, width: int, low: int = 50, high: int = 205) -> torch.Tensor:
    """[3 H W] uint8: hard edges, a gradient and noise; by default with room for what bicubic overshoots."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 80, (height, width))
    span = high - low
    layers = [span * ((x // 9 + y // 7) % 2), span * x // width, noise + (span - 80) * (y > height // 2)]
    return torch.from_numpy((low + np.stack(layers)).astype(np.uint8))


@pytest.mark.parametrize("shape", [(40, 60), (64, 64), (50, 41), (28, 28), (20, 30)])
def test_clip_pixels_agree_with_clips_own_processor(shape):
    pixels = picture(*shape)
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    theirs = processor(Image.fromarray(pixels.permute(1, 2, 0).numpy()), return_tensors="pt").pixel_values[0]
    gap = (clip_pixels(pixels[None] / 255, 28)[0] - theirs).abs()
    assert float(gap.max()) < GREY_LEVEL
    assert float(gap.mean()) < 0.3 * GREY_LEVEL


def test_saturated_edges_differ_more():
    # PIL clips to 0..255 after each of its two passes, which has no smooth counterpart.
    pixels = picture(40, 60, 0, 255)
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    theirs = processor(Image.fromarray(pixels.permute(1, 2, 0).numpy()), return_tensors="pt").pixel_values[0]
    gap = (clip_pixels(pixels[None] / 255, 28)[0] - theirs).abs()
    assert float(gap.max()) < 10 * GREY_LEVEL


@pytest.mark.parametrize(("shape", "content"), [((40, 64), (20, 32)), ((64, 40), (32, 20)), ((16, 31), (17, 32))])
def test_padded_pixels_are_pils_resized_picture_between_black_borders(shape, content):
    pixels = picture(*shape)
    resized = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(content[::-1], Image.Resampling.BICUBIC)
    found = padded_pixels(pixels[None] / 255, 32)[0] * torch.tensor(CLIP_STD)[:, None, None]
    found = found + torch.tensor(CLIP_MEAN)[:, None, None]
    top, left = (32 - content[0]) // 2, (32 - content[1]) // 2
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[top : top + content[0], left : left + content[1]] = True
    assert found[:, ~inside].abs().max() < 1e-6
    theirs = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    gap = (found[:, inside].clamp(0, 1) - theirs.flatten(1)).abs()
    assert float(gap.max()) < 1 / 255


def test_without_antialiasing_edges_stay_hard():
    image = picture(96, 96)[None] / 255
    smooth, hard = (padded_pixels(image, 32, antialias) for antialias in (True, False))
    assert float((smooth - hard).abs().max()) > 20 * GREY_LEVEL


@pytest.mark.parametrize("prepare", [clip_pixels, padded_pixels])
def test_a_picture_of_the_right_size_is_only_normalised(prepare):
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(prepare(image, 32), (image - mean) / std)
