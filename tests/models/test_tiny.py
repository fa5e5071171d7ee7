"""The shipped model: small, loadable by plain diffusers, and it draws what it is asked."""

import torch
from diffusers import StableDiffusionPipeline

from raypref.models.base import TINY
from raypref.rewards.prompt_match import ASSET, PromptMatch

PROMPTS = [
    "a big red fish in the sea",
    "a white rabbit on the grass",
    "a blue bird in the sky",
    "a yellow cat at night",
]


def megabytes(folder) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_it_is_small_enough_to_ship():
    assert megabytes(TINY) <= 15
    assert megabytes(ASSET) <= 3


def test_plain_diffusers_draws_what_the_prompt_asks():
    pipe = StableDiffusionPipeline.from_pretrained(TINY, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        [prompt for prompt in PROMPTS for _ in range(2)],
        num_inference_steps=20,
        guidance_scale=3.0,
        eta=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    assert images.shape == (8, 3, 64, 64)
    right = PromptMatch().accuracy(images.float(), [prompt for prompt in PROMPTS for _ in range(2)])
    assert float(right["colour"].mean()) >= 0.75  # by chance 0.1
    assert float(right["place"].mean()) >= 0.75  # by chance 0.17
