"""How good are the pictures of held-out prompts, and are they still different from each other?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raypref.train.scorer import Judgement


@dataclass(frozen=True)
class Estimate:
    """A mean over held-out prompts, with the standard error of that mean."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Evaluation:
    """The answers for one version of the policy."""

    iteration: int
    prompts: int
    images_per_prompt: int
    rewards: dict[str, Estimate]
    """Reward name -> its estimate; the training reward comes first."""
    accuracy: dict[str, float]
    """Attribute -> share of the pictures that show what the prompt asks."""
    diversity: float
    """See `diversity`."""
    form_diversity: float
    """See `form_diversity`."""


def evaluate(iteration: int, judgements: list[Judgement], images_per_prompt: int) -> Evaluation:
    """Summarises an evaluation's judgements, in which all pictures of a prompt stand side by side."""
    count = sum(len(part.prompts) for part in judgements) // images_per_prompt

    def gather(name: str, kind: str) -> Tensor:
        return torch.cat([getattr(part, kind)[name] for part in judgements])

    return Evaluation(
        iteration=iteration,
        prompts=count,
        images_per_prompt=images_per_prompt,
        rewards={name: _estimate(gather(name, "scores"), count) for name in judgements[0].scores},
        accuracy={name: float(gather(name, "accuracy").nanmean()) for name in judgements[0].accuracy},
        diversity=diversity(pictures(judgements, images_per_prompt)),
        form_diversity=form_diversity(pictures(judgements, images_per_prompt)),
    )


def pictures(judgements: list[Judgement], images_per_prompt: int) -> UInt8[Tensor, "P n height width 3"]:
    """All pictures, by prompt."""
    images = torch.cat([part.images for part in judgements])
    return images.unflatten(0, (-1, images_per_prompt))


def diversity(images: UInt8[Tensor, "P n height width 3"]) -> float:
    """Mean absolute pixel difference, on [0, 1], between pictures of one prompt, over all their pairs.

    0 where every picture of a prompt is the same: the collapse that a rising reward can hide.
    """
    return _spread(images.float().flatten(2) / 255)


def form_diversity(images: UInt8[Tensor, "P n height width 3"]) -> float:
    """The same on grey pictures standardised to mean 0 and standard deviation 1.

    Stronger colour or contrast raises `diversity` by itself; this sees only whether the forms still differ.
    """
    grey = images.float().mean(-1).flatten(2)  # [P n pixels]
    return _spread((grey - grey.mean(-1, keepdim=True)) / grey.std(-1, keepdim=True).clamp(min=1.0))


def _spread(values: Float[Tensor, "P n pixels"]) -> float:
    copies = values.shape[1]
    first, second = torch.triu_indices(copies, copies, offset=1)
    return float((values[:, first] - values[:, second]).abs().mean())


def _estimate(scores: Float[Tensor, " N"], prompts: int) -> Estimate:
    means = scores.unflatten(0, (prompts, -1)).nanmean(1)
    known = means[~means.isnan()]
    error = float(known.std() / len(known) ** 0.5) if len(known) > 1 else 0.0
    return Estimate(float(known.mean()), error)
