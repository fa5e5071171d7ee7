"""Trains the denoiser and its text encoder together: `python -m experiments.tiny_model.train_unet --steps N`.

Epsilon prediction with min-SNR-5 weights (Hang et al. 2023, arXiv:2303.09556), 10 % empty captions, averaged
weights. The learning rate warms up, stays, then falls linearly to zero over the last `DECAY_SHARE` of the steps;
before the fall, a resumed run may choose a new `--steps`.
"""

import argparse
import time
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.tiny_model import tokenizer as words
from experiments.tiny_model.dataset import CAPTIONS, RUNS, pictures
from experiments.tiny_model.export import export, scheduler
from experiments.tiny_model.progress import Progress, load, save
from experiments.tiny_model.train_vae import as_images

BATCH, PEAK_LR, WARMUP, DECAY_SHARE = 32, 1e-3, 200, 0.4
SNR_CAP, EMPTY_SHARE, EMA, HIDDEN = 5.0, 0.1, 0.998, 96
EXPORT_MINUTES, SAVE_STEPS = 12.0, 200


def build_unet() -> UNet2DConditionModel:
    """Attention only from 8x8 down: most of the time goes to 16x16, most of the parameters to 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=HIDDEN,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=2 * HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=words.MAX_LENGTH,
            projection_dim=HIDDEN,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Denoiser(nn.Module):
    """The two networks that train together, as one module: noisy latents [B 4 16 16] and tokens [B L] to noise."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet, self.text_encoder = build_unet(), build_text_encoder(tokenizer)

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        context = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, context).sample  # type: ignore[no-any-return]


class Data(NamedTuple):
    """Latents [N 4 16 16], caption tokens [C L], tokens of the empty caption [L]; latent i has caption i mod C."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor


@torch.no_grad()
def encode(split: str) -> Tensor:
    """[N 4 16 16] latents of a split, cached."""
    path = RUNS / f"latents_{split}.pt"
    if state := load(path):
        return state["latents"]  # type: ignore[no-any-return]
    vae = AutoencoderKL.from_pretrained(RUNS / "vae").to(memory_format=torch.channels_last)
    data = pictures(split)
    parts = [vae.encode(as_images(data[i : i + 64])).latent_dist.mean for i in range(0, len(data), 64)]
    latents = torch.cat(parts).contiguous()
    save(path, {"latents": latents})
    return latents


def read_data(tokenizer: CLIPTokenizer) -> Data:
    texts = [str(caption) for caption in CAPTIONS] + [""]
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return Data(encode("train"), ids[:-1], ids[-1])


class Noising:
    """Draws batches and weighs their errors."""

    def __init__(self, data: Data, seed: int) -> None:
        self.data = data
        self.alpha_bar = scheduler().alphas_cumprod
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, model: Denoiser) -> Tensor:
        g, data = self.generator, self.data
        chosen = torch.randint(len(data.latents), (BATCH,), generator=g)
        # One timestep from each of BATCH equal slices of the schedule: less spread than independent ones.
        t = ((torch.arange(BATCH) + torch.rand(BATCH, generator=g)) * 1000 / BATCH).long()
        dropped = torch.rand(BATCH, generator=g) < EMPTY_SHARE
        tokens = torch.where(dropped[:, None], data.empty, data.tokens[chosen % len(data.tokens)])
        noise = torch.randn((BATCH, 4, 16, 16), generator=g)
        alpha = self.alpha_bar[t][:, None, None, None]
        error = model(alpha.sqrt() * data.latents[chosen] + (1 - alpha).sqrt() * noise, t, tokens) - noise
        snr = self.alpha_bar[t] / (1 - self.alpha_bar[t])
        return (snr.clamp(max=SNR_CAP) / snr * error.square().mean((1, 2, 3))).mean()


def rate(step: int, total: int) -> float:
    return min(step / WARMUP, 1.0, max(total - step, 0) / (DECAY_SHARE * total))


@torch.no_grad()
def average(mean: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential average, short at first."""
    weight = 1 - min(EMA, (1 + step) / (10 + step))
    for target, source in zip(mean.parameters(), model.parameters(), strict=True):
        target.lerp_(source, weight)


def train(steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    tokenizer = words.build()
    model, mean = Denoiser(tokenizer), Denoiser(tokenizer).requires_grad_(False)
    mean.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=0.01)
    checkpoint, start = RUNS / "unet.pt", 0
    if state := load(checkpoint):
        model.load_state_dict(state["model"])
        mean.load_state_dict(state["mean"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    noising = Noising(read_data(tokenizer), seed + start)
    progress, exported = Progress("unet", steps, start), float("-inf")
    for step in range(start + 1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * rate(step, steps)
        loss = noising.loss(model)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average(mean, model, step)
        progress(step, loss.item())
        if step % SAVE_STEPS == 0 or step == steps:
            save(checkpoint, {"model": model.state_dict(), "mean": mean.state_dict(),
                              "optimizer": optimizer.state_dict(), "step": step})  # fmt: skip
        if step == steps or (step >= SAVE_STEPS and time.time() - exported > 60 * EXPORT_MINUTES):
            export(mean.unet, mean.text_encoder, tokenizer)
            exported = time.time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2950)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(args.steps, args.seed)


if __name__ == "__main__":
    main()
