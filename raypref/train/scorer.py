"""The reward worker's work: decode clean latents and score the pictures."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raypref.models.base import Decoder
from raypref.rewards.base import Reward
from raypref.train.rollout import ScoreRequest, Scores


@dataclass(frozen=True)
class Judgement:
    """Pictures of an evaluation and everything that is said of them."""

    prompts: tuple[str, ...]
    images: UInt8[Tensor, "N height width 3"]
    scores: dict[str, Float[Tensor, " N"]]
    """Reward name -> scores; the training reward is among them."""
    accuracy: dict[str, Float[Tensor, " N"]]
    """Attribute -> 1, 0 or NaN, from the rewards that can tell."""


class Scorer:
    """A decoder, the training reward, and the rewards that are only watched."""

    def __init__(self, decoder: Decoder, reward: Reward, watched: tuple[Reward, ...] = ()) -> None:
        self.decoder, self.reward, self.watched = decoder, reward, watched

    @torch.no_grad()
    def score(self, request: ScoreRequest) -> Scores:
        """Scores of the training reward, float32 on the CPU."""
        return self.reward.score(self.decoder.decode(request.x_0), request.prompts).float().cpu()

    @torch.no_grad()
    def judge(self, request: ScoreRequest) -> Judgement:
        """Pictures and all scores."""
        images = self.decoder.decode(request.x_0)
        judges = (self.reward, *self.watched)
        return Judgement(
            prompts=request.prompts,
            images=(images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu(),
            scores={judge.name: judge.score(images, request.prompts).float().cpu() for judge in judges},
            accuracy={
                attribute: right.float().cpu()
                for judge in judges
                for attribute, right in judge.accuracy(images, request.prompts).items()
            },
        )
