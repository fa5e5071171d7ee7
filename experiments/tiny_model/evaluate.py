"""Measures the shipped model against its quality bars: `python -m experiments.tiny_model.evaluate`.

Writes `evaluation.json` and, for each guidance scale, a grid of pictures (a row a prompt) to `--out`.
"""

import argparse
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from experiments.tiny_model.dataset import RUNS, pictures
from experiments.tiny_model.draw import sheet
from experiments.tiny_model.export import ASSET
from experiments.tiny_model.prompts import balanced
from experiments.tiny_model.train_scorer import pixels
from experiments.tiny_model.train_vae import as_images, psnr
from experiments.tiny_model.vocabulary import ANIMALS
from raypref.rewards.prompt_match import PromptMatch

BARS = {"colour": 0.95, "place": 0.95, "animal": 0.7, "vae_psnr_db": 26.0}
STEPS = 20


def load(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(
    pipe: StableDiffusionPipeline, prompts: list[str], each: int, guidance: float, seed: int
) -> list[Image.Image]:
    """`each` pictures a prompt, prompt by prompt: DDIM, 20 steps, eta 1."""
    generator = torch.Generator().manual_seed(seed)
    images: list[Image.Image] = []
    for i in range(0, len(prompts), 8):
        images += pipe(
            prompts[i : i + 8],
            num_images_per_prompt=each,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            eta=1.0,
            generator=generator,
        ).images
    return images


def judge(scorer: PromptMatch, images: list[Image.Image], prompts: list[str]) -> dict[str, float]:
    """Mean score and accuracies, over the pictures whose prompt names the attribute."""
    values = pixels(np.stack([np.asarray(image) for image in images]))
    accuracy = {name: float(right.nanmean()) for name, right in scorer.accuracy(values, prompts).items()}
    return {"score": float(scorer.score(values, prompts).mean()), **accuracy}


def by_animal(scorer: PromptMatch, images: list[Image.Image], prompts: list[str]) -> dict[str, float]:
    """Animal accuracy, animal by animal: which ones the model draws well."""
    return {
        animal: judge(scorer, [images[i] for i in chosen], [prompts[i] for i in chosen])["animal"]
        for animal in ANIMALS
        if (chosen := [i for i, prompt in enumerate(prompts) if animal in prompt])
    }


def evaluate(folder: Path, scales: list[float], count: int, each: int, seed: int, out: Path) -> dict[str, Any]:
    pipe, scorer = load(folder), PromptMatch()
    prompts = [str(caption) for caption in balanced(count, Random(seed), set())]
    repeated = [prompt for prompt in prompts for _ in range(each)]
    heldout = as_images(pictures("heldout")[::5])
    report: dict[str, Any] = {
        "pictures": len(repeated), "prompts": count, "steps": STEPS, "eta": 1.0, "seed": seed, "bars": BARS,
        "vae_psnr_db": psnr(pipe.vae, heldout), "vae_pictures": len(heldout), "guidance": {},
    }  # fmt: skip
    for scale in scales:
        images = generate(pipe, prompts, each, scale, seed)
        sheet(images, 2 * each).save(out / f"grid_guidance_{scale:g}.png")
        figures = {**judge(scorer, images, repeated), "by_animal": by_animal(scorer, images, repeated)}
        report["guidance"][f"{scale:g}"] = figures
        print(scale, figures, flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ASSET)
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 3.0, 4.0])
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--each", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RUNS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report = evaluate(args.folder, args.guidance, args.prompts, args.each, args.seed, args.out)
    (args.out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
