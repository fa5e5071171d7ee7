"""Whether a picture predicted in the middle of a trajectory is on its way to what the prompt asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from raypref.rewards.base import StepAwareReward
from raypref.rewards.prompt_match import SIDE, AttributeNet, PromptMatch, fitted, log_probabilities

ASSET = Path(__file__).parents[1] / "assets" / "step_aware_match"
TIMES = 1000


def with_time(images: Float[Tensor, "B 3 64 64"], t: Int[Tensor, " B"]) -> Float[Tensor, "B 4 64 64"]:
    """What the network sees: the picture, and its time as a constant fourth channel."""
    level = (t.to(images) / TIMES)[:, None, None, None].expand(-1, 1, SIDE, SIDE)
    return torch.cat([images, level], 1)


class StepAwareMatch(StepAwareReward):
    """The log-probability that the finished picture will show what the prompt names, from the clean picture predicted
    at time t: SPO's step-aware preference model for the tiny world.

    Summed over the named attributes, so a difference of two scores is a difference of logits, as SPO's threshold
    assumes. SPO's own model is a time-conditioned CLIP trained on human preferences; this one learned from the tiny
    model's trajectories, labelled by what `prompt_match` sees in their finished pictures
    (`experiments/tiny_model/train_step_aware.py`).
    """

    name: ClassVar[str] = "step_aware_match"
    unit: ClassVar[str] = "nats"
    range: ClassVar[str] = "up to 0"
    differentiable: ClassVar[bool] = True

    def __init__(self) -> None:
        self._finished = PromptMatch()
        sizes = {name: len(words) for name, words in self._finished.vocabulary.items()}
        self.net = AttributeNet(sizes, channels=4)
        weights = load_file(ASSET / "model.safetensors")
        self.net.load_state_dict({key: value.float() for key, value in weights.items()})
        self.net.eval().requires_grad_(False)

    @classmethod
    def refusal(cls, prompt: str) -> str:
        """See `Reward.refusal`."""
        return PromptMatch.refusal(prompt)

    def score_at(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], t: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """See the class. A prompt that names no known attribute is an error."""
        asked = self._finished.asked(prompts).to(images.device)
        logits = self.net.to(images.device)(with_time(fitted(images), t))
        return log_probabilities(logits, asked).sum(1)
