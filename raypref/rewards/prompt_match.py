"""Whether a picture of the tiny model shows what its prompt asks for: colour, animal, place and size."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from raypref.rewards.base import Featured, Reward

ASSET = Path(__file__).parents[1] / "assets" / "prompt_match"
SIDE = 64

Vocabulary = dict[str, list[str]]
"""Attribute -> the words that name its values; the empty word is a value that no prompt can ask for."""


class AttributeNet(nn.Module):
    """A small convolutional classifier with one linear head an attribute."""

    def __init__(self, sizes: dict[str, int], width: int = 32, channels: int = 3) -> None:
        super().__init__()
        widths = [width, width * 2, width * 3, width * 4]
        stages: list[nn.Module] = []
        for before, after in zip([channels, *widths[:-1]], widths, strict=True):
            stages += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
            ]
        self.trunk = nn.Sequential(*stages)
        self.heads = nn.ModuleDict({name: nn.Linear(16 * widths[-1], count) for name, count in sizes.items()})

    def forward(self, images: Float[Tensor, "B channels 64 64"]) -> dict[str, Float[Tensor, "B _"]]:
        """Logits by attribute; images in [0, 1]."""
        features = self.trunk(2 * images - 1).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}


class PromptMatch(Reward, Featured):
    """The mean, over the attributes that the prompt names, of the probability a classifier gives the asked value.

    In [0, 1]. The classifier was trained on the drawn pictures that the tiny model learned from, so it judges
    pictures of that world only: ten colours, eight animals, six places, two named sizes
    (`raypref/assets/prompt_match/config.json`). Source: `experiments/tiny_model/train_scorer.py`.
    """

    name: ClassVar[str] = "prompt_match"
    unit: ClassVar[str] = "probability"
    range: ClassVar[str] = "0 to 1"
    differentiable: ClassVar[bool] = True

    def __init__(self) -> None:
        self.vocabulary = vocabulary()
        self.net = AttributeNet({name: len(words) for name, words in self.vocabulary.items()})
        weights = load_file(ASSET / "model.safetensors")
        self.net.load_state_dict({key: value.float() for key, value in weights.items()})
        self.net.eval().requires_grad_(False)

    def score(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """See the class. A prompt that names no known attribute is an error."""
        logits, asked = self.judge(images), self.asked(prompts).to(images.device)
        named = asked >= 0
        return (log_probabilities(logits, asked).exp() * named).sum(1) / named.sum(1)

    def accuracy(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> dict[str, Float[Tensor, " B"]]:
        """By attribute: 1 where the likeliest value is the asked one, 0 where not, NaN where the prompt is silent."""
        logits, asked = self.judge(images), self.asked(prompts).to(images.device)
        return {
            name: (head.argmax(1) == wanted).float().masked_fill(wanted < 0, torch.nan)
            for (name, head), wanted in zip(logits.items(), asked.unbind(1), strict=True)
        }

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """What the classifier's heads read."""
        return self.net.to(images.device).trunk(2 * fitted(images) - 1).flatten(1)  # type: ignore[no-any-return]

    def judge(self, images: Float[Tensor, "B 3 H W"]) -> dict[str, Float[Tensor, "B _"]]:
        """Logits by attribute, at the resolution that the classifier knows."""
        return self.net.to(images.device)(fitted(images))  # type: ignore[no-any-return]

    def asked(self, prompts: Sequence[str]) -> Tensor:
        """[B A] the index of the asked value, -1 where the prompt does not name the attribute."""
        return torch.tensor([parse(prompt) for prompt in prompts])

    @classmethod
    def refusal(cls, prompt: str) -> str:
        """See `Reward.refusal`."""
        try:
            parse(prompt)
        except ValueError as problem:
            return str(problem)
        return ""


@cache
def vocabulary() -> Vocabulary:
    """What the classifier knows."""
    known: Vocabulary = json.loads((ASSET / "config.json").read_text())["vocabulary"]
    return known


def parse(prompt: str) -> list[int]:
    """The index of the asked value for each attribute, or -1.

    Raises:
        ValueError: where the prompt names none.
    """
    said = "".join(c if c.isalnum() else " " for c in prompt.lower()).split()
    indices = [next((i for i, word in enumerate(words) if word in said), -1) for words in vocabulary().values()]
    if max(indices) < 0:
        known = ", ".join(word for words in vocabulary().values() for word in words if word)
        raise ValueError(
            f"prompt_match cannot score {prompt!r}: it names no colour, animal, place or size that the "
            f"classifier knows. Use at least one of: {known}."
        )
    return indices


def fitted(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 64 64"]:
    """Pictures at the resolution that the classifiers know."""
    if images.shape[-2:] == (SIDE, SIDE):
        return images.float()
    return F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)


def log_probabilities(logits: dict[str, Float[Tensor, "B _"]], asked: Int[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    """The log-probability of each asked value; 0 where the prompt does not name the attribute."""
    found = [
        head.log_softmax(1).gather(1, wanted.clamp(min=0)[:, None])[:, 0]
        for head, wanted in zip(logits.values(), asked.unbind(1), strict=True)
    ]
    return torch.stack(found, 1).masked_fill(asked < 0, 0.0)
