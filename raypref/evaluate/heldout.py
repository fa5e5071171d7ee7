"""How good are the pictures of held-out prompts, and are they still different from each other?"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raypref.core.pictures import diversity, form_diversity
from raypref.evaluate.rank_agreement import kendall_tau, pairs_compared
from raypref.train.guards import commonest
from raypref.train.scorer import Judgement, together


@dataclass(frozen=True)
class Estimate:
    """A mean over held-out prompts, with the standard error of that mean; NaN where nothing was scored, and the error
    where one prompt was: it is unknown."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if math.isnan(self.standard_error) else f" ± {self.standard_error:.4f}")


@dataclass(frozen=True)
class Evaluation:
    """The answers for one version of the policy."""

    iteration: int
    prompts: int
    images_per_prompt: int
    rewards: dict[str, Estimate]
    """Reward name -> its estimate; the training reward comes first."""
    accuracy: dict[str, float]
    """Attribute -> share of the pictures that show what the prompt asks, of those that could be told."""
    diversity: float
    """See `diversity`."""
    form_diversity: float
    """See `form_diversity`."""
    score_by_step: dict[str, float]
    """Recorded step -> mean training reward of the clean picture predicted after it."""
    tau_by_step: dict[str, float]
    """Recorded step -> Kendall's tau between that score and the finished picture's, among pictures of one prompt."""
    tiny_tau_by_step: dict[str, float] = field(default_factory=dict)
    """Recorded step -> Kendall's tau between step scores by the tiny decoder and by the full one, among candidates of
    one parent; empty without a tiny decoder."""
    tiny_pairs_by_step: dict[str, int] = field(default_factory=dict)
    """Of how many pairs of candidates."""
    failures: dict[str, int] = field(default_factory=dict)
    """Why, and of how many pictures, a reward said nothing."""


def evaluate(iteration: int, judgements: list[Judgement], images_per_prompt: int) -> Evaluation:
    """Summarises an evaluation's judgements, in which all pictures of a prompt stand side by side."""
    count = sum(len(part.prompts) for part in judgements) // images_per_prompt

    def gather(name: str, kind: str) -> Tensor:
        return torch.cat([getattr(part, kind)[name] for part in judgements if name in getattr(part, kind)])

    attributes = dict.fromkeys(name for part in judgements for name in part.accuracy)  # where a reward failed: none
    final = gather(next(iter(judgements[0].scores)), "scores")
    steps = judgements[0].score_by_step
    by_step = {step: torch.cat([part.score_by_step[step] for part in judgements]) for step in steps}
    twice = {
        str(step): torch.cat([part.decoded_twice[step] for part in judgements], 1)
        for step in judgements[0].decoded_twice
    }
    return Evaluation(
        iteration=iteration,
        prompts=count,
        images_per_prompt=images_per_prompt,
        rewards={name: _estimate(gather(name, "scores"), count) for name in judgements[0].scores},
        accuracy={name: float(gather(name, "accuracy").nanmean()) for name in attributes},
        diversity=diversity(pictures(judgements, images_per_prompt)),
        form_diversity=form_diversity(pictures(judgements, images_per_prompt)),
        score_by_step={str(step): float(scores.nanmean()) for step, scores in by_step.items()},
        tau_by_step={
            str(step): kendall_tau(scores.unflatten(0, (count, -1)), final.unflatten(0, (count, -1)))
            for step, scores in by_step.items()
        },
        tiny_tau_by_step={step: kendall_tau(*scores) for step, scores in twice.items()},
        tiny_pairs_by_step={step: pairs_compared(*scores) for step, scores in twice.items()},
        failures=commonest(together(*(part.failures for part in judgements))),
    )


def pictures(judgements: list[Judgement], images_per_prompt: int) -> UInt8[Tensor, "P n height width 3"]:
    """All pictures, by prompt."""
    images = torch.cat([part.images for part in judgements])
    return images.unflatten(0, (-1, images_per_prompt))


def _estimate(scores: Float[Tensor, " N"], prompts: int) -> Estimate:
    means = scores.unflatten(0, (prompts, -1)).nanmean(1)
    known = means[~means.isnan()]
    if not len(known):
        return Estimate(math.nan, math.nan)
    error = float(known.std() / len(known) ** 0.5) if len(known) > 1 else math.nan
    return Estimate(float(known.mean()), error)
