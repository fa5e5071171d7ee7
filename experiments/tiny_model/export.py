"""Writes the folder that `StableDiffusionPipeline.from_pretrained("raypref/assets/tiny")` loads."""

import copy
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from experiments.tiny_model.dataset import RUNS

ASSET = Path("raypref/assets/tiny")


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


def export(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path = ASSET
) -> None:
    """Save beside the folder, keep its README, then swap it in.

    UNet and VAE are stored as float16, which diffusers loads as float32; the text encoder stays float32, because
    transformers keeps the type that it finds, and plain `from_pretrained` should give one type throughout.
    """
    vae = AutoencoderKL.from_pretrained(RUNS / "vae")
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=copy.deepcopy(text_encoder),
        tokenizer=tokenizer,
        unet=copy.deepcopy(unet),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)
    pipe.text_encoder.float()
    new, old = RUNS / "export", RUNS / "export.old"
    for stale in (new, old):
        shutil.rmtree(stale, ignore_errors=True)
    pipe.save_pretrained(new)
    for weights in new.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors keeps them to their owner; an installed package is read by all
    if (folder / "README.md").exists():
        shutil.copy(folder / "README.md", new)
    if folder.exists():
        folder.rename(old)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
