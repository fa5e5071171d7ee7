"""The reward worker's work: decode clean latents and score the pictures."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raypref.models.base import Decoder
from raypref.rewards.base import Reward, StepAwareReward
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
    score_by_step: dict[int, Float[Tensor, " N"]] = field(default_factory=dict)
    """Recorded step -> Q(x_s), the training reward of the clean picture predicted after that step."""


DECODED_AT_ONCE = 16
"""Pictures that the decoder and the rewards see together. A decoder's memory grows with them, and the last bits of its
numbers may depend on them, so they are the same everywhere."""


class Scorer:
    """A decoder, the rewards that train, and the rewards that are only watched."""

    def __init__(self, decoder: Decoder, rewards: tuple[Reward, ...], watched: tuple[Reward, ...] = ()) -> None:
        self.decoder, self.rewards, self.watched = decoder, rewards, watched

    def score(self, request: ScoreRequest) -> Scores:
        """Scores of the training rewards, float32 on the CPU; with their gradient where it is asked for.

        DECODED_AT_ONCE pictures at a time: a request holds every picture of a chunk, whatever the number of candidates.
        """
        rows = torch.arange(len(request.x_0)).split(DECODED_AT_ONCE)
        parts = [self._score_rows(request.take(chosen)) for chosen in rows]
        gradients = [part.gradient for part in parts if part.gradient is not None]
        return Scores(torch.cat([part.value for part in parts]), torch.cat(gradients) if gradients else None)

    def _score_rows(self, request: ScoreRequest) -> Scores:
        x_0 = request.x_0.detach().requires_grad_(request.gradient)
        with torch.set_grad_enabled(request.gradient):
            images = self.decoder.decode(x_0)
            value = torch.stack([_score(reward, images, request).float() for reward in self.rewards], -1)
            gradient = torch.autograd.grad(value[:, 0].nansum(), x_0)[0].cpu() if request.gradient else None
        return Scores(value.detach().cpu(), gradient)

    @torch.no_grad()
    def judge(self, request: ScoreRequest) -> Judgement:
        """Pictures and all scores."""
        images = self.decoder.decode(request.x_0)
        judges = (*self.rewards, *self.watched)
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


def _score(reward: Reward, images: Float[Tensor, "N 3 H W"], request: ScoreRequest) -> Float[Tensor, " N"]:
    if isinstance(reward, StepAwareReward):
        return reward.score_at(images, request.prompts, request.t)
    return reward.score(images, request.prompts)
