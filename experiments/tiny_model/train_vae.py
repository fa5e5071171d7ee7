"""Trains the 64x64 autoencoder (AutoencoderKL, f=4, 4 channels): `python -m experiments.tiny_model.train_vae`.

Fixed noise on the latents stands in for the KL term: it makes the decoder smooth, and needs no weight to tune.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from experiments.tiny_model.dataset import RUNS, pictures
from experiments.tiny_model.progress import Progress, load, save

BATCH, PEAK_LR, NOISE, CROP = 16, 2e-3, 0.05, 32
CROPPED_SHARE = 0.88
"""Of the steps: on 32x32 crops (four times cheaper), before whole pictures."""


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 32, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def batch(data: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """[B 3 crop crop] in [-1, 1] at latent-aligned corners, half of them mirrored; data is [N 64 64 3] uint8."""
    chosen = torch.randint(len(data), (BATCH,), generator=generator)
    top, left = (4 * torch.randint((64 - crop) // 4 + 1, (2,), generator=generator)).tolist()
    images = data[chosen, top : top + crop, left : left + crop].permute(0, 3, 1, 2) / 127.5 - 1
    mirrored = torch.rand(BATCH, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images.contiguous(memory_format=torch.channels_last)


def reconstruction_loss(vae: AutoencoderKL, images: Tensor, generator: torch.Generator) -> Tensor:
    latents = vae.encode(images).latent_dist.mean
    # Latents of unit scale, so that the noise is a fixed share of the signal.
    spread = 0.01 * ((latents.mean((0, 2, 3)) ** 2).mean() + (latents.var((0, 2, 3)) - 1).square().mean())
    noise = torch.randn(latents.shape, generator=generator)
    error = vae.decode(latents + NOISE * noise).sample - images
    return error.abs().mean() + 2 * error.square().mean() + spread


def cosine(step: int, total: int, warmup: int = 100) -> float:
    return min(1.0, step / warmup) * 0.5 * (1 + float(np.cos(np.pi * step / total))) + 1e-3


@torch.no_grad()
def fold_scale(vae: AutoencoderKL, images: Tensor) -> None:
    """Move the latents' mean and deviation into the 1x1 convolutions: latents have mean 0, deviation 1 a channel."""
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    out, back = vae.quant_conv, vae.post_quant_conv
    out.weight[:4] /= deviation[:, None, None, None]
    out.bias[:4] = (out.bias[:4] - mean) / deviation
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
    back.weight *= deviation[None, :, None, None]
    # The variance half was never trained: make sampling from the posterior equal to its mean.
    out.weight[4:], out.bias[4:] = 0, -20.0


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Mean over pictures of 10 log10(1 / MSE), pixels in [0, 1]."""
    values = []
    for part in images.split(64):
        back = vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1)
        values.append(-10 * ((back - part) / 2).square().mean((1, 2, 3)).log10())
    return float(torch.cat(values).mean())


def as_images(data: np.ndarray) -> Tensor:
    """[N 64 64 3] uint8 -> [N 3 64 64] in [-1, 1]."""
    return torch.from_numpy(data).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    data = torch.from_numpy(pictures("train"))
    heldout = as_images(pictures("heldout")[::5])
    vae, checkpoint = build().to(memory_format=torch.channels_last), RUNS / "vae.pt"  # a fifth faster
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_LR, betas=(0.9, 0.99))
    start, generator = 0, torch.Generator().manual_seed(seed)
    if state := load(checkpoint):
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        generator.manual_seed(seed + start)
    progress = Progress("vae", steps, start)
    for step in range(start + 1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * cosine(step, steps)
        images = batch(data, CROP if step < CROPPED_SHARE * steps else 64, generator)
        loss = reconstruction_loss(vae, images, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        progress(step, loss.item())
        if step % 500 == 0 or step == steps:
            print(f"held-out PSNR {psnr(vae, heldout[:96]):.2f} dB", flush=True)
            save(checkpoint, {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
    fold_scale(vae, as_images(pictures("train")[:2880]))
    print(f"final held-out PSNR {psnr(vae, heldout):.2f} dB, n={len(heldout)}")
    vae.save_pretrained(RUNS / "vae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not Path(RUNS / "vae" / "config.json").exists():
        train(args.steps, args.seed)


if __name__ == "__main__":
    main()
