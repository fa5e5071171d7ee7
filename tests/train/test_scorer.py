"""The scorer: every latent gets its own score, its own gradient and its own prompt, however many there are at once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from raypref.models.base import ModelConfig
from raypref.rewards.base import StepAwareReward
from raypref.rewards.colorfulness import Colorfulness
from raypref.train.rollout import ScoreRequest
from raypref.train.scorer import DECODED_AT_ONCE, Scorer, guided_at_once
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


class Counting(ToyDecoder):
    """Notes how many latents it is given together."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []

    def decode(self, latents: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 3 height width"]:
        self.given.append(len(latents))
        return super().decode(latents)


def test_with_slices_the_way_back_is_gone_one_picture_at_a_time():
    decoder, asked = Counting(), request(3, gradient=True)
    config = ModelConfig(vae_slicing=True)
    sliced = Scorer(decoder, (Reader(),), guided_at_once=guided_at_once(config)).score(asked)
    assert decoder.given == [1, 1, 1]
    whole = Scorer(decoder, (Reader(),), guided_at_once=guided_at_once(replace(config, vae_slicing=False)))
    assert sliced.gradient is not None
    torch.testing.assert_close(sliced.gradient, whole.score(asked).gradient)
    assert decoder.given == [1, 1, 1, 3]


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
