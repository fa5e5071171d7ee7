"""Trains the classifier behind the reward `prompt_match`: `python -m experiments.tiny_model.train_scorer`.

Half of the pictures it sees went through the autoencoder with noisy latents, as generated pictures do.
"""

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from experiments.tiny_model.augment import augment
from experiments.tiny_model.dataset import CAPTIONS, RUNS, pictures
from experiments.tiny_model.progress import Progress, load, save
from experiments.tiny_model.train_unet import encode
from experiments.tiny_model.vocabulary import ANIMALS, COLOURS, PLACES, SIZES
from raypref.rewards.prompt_match import ASSET, AttributeNet, Vocabulary

BATCH, PEAK_LR, RECONSTRUCTED, LATENT_NOISE = 64, 2e-3, 5_760, 0.15
VOCABULARY: Vocabulary = {
    "colour": list(COLOURS),
    "animal": list(ANIMALS),
    "place": list(PLACES),
    "size": list(SIZES),
}


def labels() -> Tensor:
    """[C attributes] the index of each caption's values."""
    return torch.tensor([[words.index(getattr(c, name)) for name, words in VOCABULARY.items()] for c in CAPTIONS])


def pixels(data: np.ndarray) -> Tensor:
    """[N 64 64 3] uint8 -> [N 3 64 64] in [0, 1]."""
    return torch.from_numpy(data).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def reconstructions(split: str, count: int, noise: float, seed: int) -> Tensor:
    """[count 3 64 64] in [0, 1]: the first pictures of a split after encoding, noise and decoding."""
    vae = AutoencoderKL.from_pretrained(RUNS / "vae").to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    latents = encode(split)[:count]
    latents = latents + noise * torch.randn(latents.shape, generator=generator)
    return torch.cat([vae.decode(part).sample for part in latents.split(64)]).clamp(-1, 1) / 2 + 0.5


@torch.no_grad()
def accuracies(net: AttributeNet, images: Tensor) -> dict[str, float]:
    """Share of right answers by attribute; image i shows caption i modulo the number of captions."""
    truth = labels()[torch.arange(len(images)) % len(CAPTIONS)]
    heads = [net(part) for part in images.split(128)]
    return {
        name: float((torch.cat([h[name] for h in heads]).argmax(1) == truth[:, i]).float().mean())
        for i, name in enumerate(VOCABULARY)
    }


def train(net: AttributeNet, steps: int, seed: int) -> None:
    drawn = torch.from_numpy(pictures("train")).permute(0, 3, 1, 2)
    decoded = reconstructions("train", RECONSTRUCTED, LATENT_NOISE, seed)
    truth, generator = labels(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_LR, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps, pct_start=0.1)
    progress = Progress("scorer", steps)
    for step in range(1, steps + 1):
        first = torch.randint(len(drawn), (BATCH // 2,), generator=generator)
        second = torch.randint(len(decoded), (BATCH // 2,), generator=generator)
        images = augment(torch.cat([drawn[first] / 255, decoded[second]]), generator)
        wanted = truth[torch.cat([first, second]) % len(truth)]
        logits = net(images)
        loss = sum(
            (F.cross_entropy(logits[name], wanted[:, i]) for i, name in enumerate(VOCABULARY)), torch.tensor(0.0)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step, loss.item())


def report(net: AttributeNet) -> dict[str, dict[str, float]]:
    """Accuracy on held-out drawings: as drawn, augmented, and through the autoencoder."""
    drawn = pixels(pictures("heldout"))
    return {
        "drawn": accuracies(net, drawn),
        "augmented": accuracies(net, augment(drawn, torch.Generator().manual_seed(1))),
        "reconstructed": accuracies(net, reconstructions("heldout", len(drawn), 0.0, 2)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    net, checkpoint = AttributeNet({name: len(words) for name, words in VOCABULARY.items()}), RUNS / "scorer.pt"
    if state := load(checkpoint):
        net.load_state_dict(state["net"])
    else:
        train(net, args.steps, args.seed)
        save(checkpoint, {"net": net.state_dict()})
    ASSET.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half().contiguous() for key, value in net.state_dict().items()}
    save_file(halves, ASSET / "model.safetensors")
    (ASSET / "model.safetensors").chmod(0o644)  # an installed package is read by all
    figures = {"heldout_pictures": len(CAPTIONS), "heldout_accuracy": report(net)}
    config = {"vocabulary": VOCABULARY, "steps": args.steps, "seed": args.seed, **figures}
    (ASSET / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
