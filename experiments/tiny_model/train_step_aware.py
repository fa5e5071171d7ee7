"""Trains the reward `step_aware_match`: `python -m experiments.tiny_model.train_step_aware`.

Data: trajectories of the tiny model for random captions, at a guidance scale so low that some miss their caption. What
the network sees is the clean picture predicted at a step; what it must tell is what `prompt_match` reads off the
finished picture of that trajectory.
"""

import argparse
import json
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.tiny_model.progress import Progress, load, save
from experiments.tiny_model.vocabulary import every_caption
from raypref.core.seeding import Key
from raypref.models.base import ModelConfig
from raypref.models.stable_diffusion import StableDiffusion
from raypref.rewards.prompt_match import ASSET as FINISHED
from raypref.rewards.prompt_match import AttributeNet, PromptMatch
from raypref.rewards.step_aware_match import ASSET, with_time
from raypref.train.chunk import Chunk
from raypref.train.experiment import SamplingConfig
from raypref.train.rollout import Walk, finish

RUNS = Path("runs/tiny_model")
STEPS, GUIDANCE, CHUNK, HELDOUT, BATCH, PEAK_LR = 20, 1.5, 32, 96, 128, 1e-3


def captions(count: int, rng: Random) -> list[str]:
    """Prompts drawn evenly from all captions."""
    return [str(caption) for caption in rng.choices(every_caption(), k=count)]


@torch.no_grad()
def trajectories(count: int, address: str) -> dict[str, Tensor]:
    """images [N 3 64 64] uint8, t [N], truth [N A]: N = count x (STEPS - 1) predictions."""
    denoiser, decoder = StableDiffusion.denoiser(ModelConfig()), StableDiffusion.decoder(ModelConfig())
    judge, sampling = PromptMatch(), SamplingConfig(num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    process = sampling.process(denoiser.schedule)
    prompts, parts = captions(count, Random(address)), []
    progress = Progress("trajectories", count // CHUNK, every=1)
    for start in range(0, count, CHUNK):
        chunk = Chunk(
            "", tuple(prompts[start : start + CHUNK]), tuple(Key(0)(address, start + i) for i in range(CHUNK))
        )
        x_0, predicted = finish(Walk(denoiser, process, chunk, GUIDANCE), tuple(range(STEPS - 1)))
        truth = torch.stack([head.argmax(1) for head in judge.judge(decoder.decode(x_0)).values()], 1)
        for step, clean in predicted.items():
            images = (decoder.decode(clean[0]) * 255).round().to(torch.uint8)
            parts.append((images, torch.full((CHUNK,), int(process.t[step])), truth))
        progress(start // CHUNK + 1, 0.0)
    images, t, truth = (torch.cat(column) for column in zip(*parts, strict=True))
    return {"images": images, "t": t, "truth": truth}


def kept_trajectories(split: str, count: int, seed: int) -> dict[str, Tensor]:
    """Made once; a repeated command goes on from them."""
    path = RUNS / f"trajectories_{split}.pt"
    data = load(path)
    if data is None:
        data = trajectories(count, f"{seed} {split}")
        save(path, data)
    return data


def train(net: AttributeNet, data: dict[str, Tensor], steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_LR, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps, pct_start=0.1)
    progress = Progress("step-aware scorer", steps)
    for step in range(1, steps + 1):
        rows = torch.randint(len(data["t"]), (BATCH,), generator=generator)
        logits = net(with_time(data["images"][rows] / 255, data["t"][rows]))
        truth = data["truth"][rows]
        loss = torch.stack([F.cross_entropy(head, truth[:, i]) for i, head in enumerate(logits.values())]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step, loss.item())


@torch.no_grad()
def accuracy_by_time(net: AttributeNet, data: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Time -> attribute -> share of predictions that name the finished picture's value."""
    names = list(PromptMatch().vocabulary)
    result = {}
    for time in data["t"].unique().flip(0).tolist():
        rows = data["t"] == time
        logits = net(with_time(data["images"][rows] / 255, data["t"][rows]))
        truth = data["truth"][rows]
        result[str(time)] = {
            name: round(float((logits[name].argmax(1) == truth[:, i]).float().mean()), 3)
            for i, name in enumerate(names)
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=480)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    RUNS.mkdir(parents=True, exist_ok=True)
    data = {
        name: kept_trajectories(name, count, args.seed)
        for name, count in (("train", args.trajectories), ("heldout", HELDOUT))
    }
    vocabulary = PromptMatch().vocabulary
    net = AttributeNet({name: len(words) for name, words in vocabulary.items()}, channels=4)
    start = {key: value.float() for key, value in load_file(FINISHED / "model.safetensors").items()}
    first = start["trunk.0.weight"]
    blind = torch.zeros_like(first[:, :1])  # at first the time channel says nothing
    net.load_state_dict(start | {"trunk.0.weight": torch.cat([first, blind], 1)})
    train(net, data["train"], args.steps, args.seed)
    net.eval()
    figures = {"heldout_trajectories": HELDOUT, "heldout_accuracy_by_t": accuracy_by_time(net, data["heldout"])}
    ASSET.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in net.state_dict().items()}, ASSET / "model.safetensors")
    (ASSET / "model.safetensors").chmod(0o644)  # an installed package is read by all
    config = {"trajectories": args.trajectories, "guidance_scale": GUIDANCE, "steps": args.steps, "seed": args.seed}
    (ASSET / "config.json").write_text(json.dumps(config | figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
