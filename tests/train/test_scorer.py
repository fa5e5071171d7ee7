"""The scorer: every latent gets its own score, its own gradient and its own prompt, however many there are at once."""

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from raypref.rewards.base import StepAwareReward
from raypref.rewards.colorfulness import Colorfulness
from raypref.train.rollout import ScoreRequest
from raypref.train.scorer import DECODED_AT_ONCE, Scorer
from tests.toy_runtime import ToyDecoder


class Reader(StepAwareReward):
    """Brightness, plus the number that the prompt is, plus the time."""

    name: ClassVar[str] = "reader"
    unit: ClassVar[str] = "none"
    differentiable: ClassVar[bool] = True

    def score_at(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], t: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        return images.mean((1, 2, 3)) + torch.tensor([float(prompt) for prompt in prompts]) + 1000 * t


def request(count: int, gradient: bool) -> ScoreRequest:
    x_0 = torch.randn(count, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    return ScoreRequest(x_0, tuple(str(10 * row) for row in range(count)), torch.arange(count), gradient)


@pytest.mark.parametrize("count", [1, DECODED_AT_ONCE, 2 * DECODED_AT_ONCE + 3])
@pytest.mark.parametrize("gradient", [False, True])
def test_latents_are_scored_as_each_would_be_alone(count: int, gradient: bool):
    scorer, asked = Scorer(ToyDecoder(), (Reader(), Colorfulness())), request(count, gradient)
    together = scorer.score(asked)
    assert together.value.shape == (count, 2)
    for row in range(count):
        alone = scorer.score(asked.take(torch.tensor([row])))
        torch.testing.assert_close(together.value[row], alone.value[0])
        if gradient:
            assert together.gradient is not None
            assert alone.gradient is not None
            torch.testing.assert_close(together.gradient[row], alone.gradient[0])
    assert (together.gradient is None) == (not gradient)
