"""The clipped policy gradient against an oracle of plain numbers, and its promises at and beyond the clip."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from raypref.core.losses import ppo_clip
from raypref.core.process import Gaussian
from raypref.core.types import Loss, Transitions

B, SHAPE = 6, (2, 1, 3)
CLIP = 0.05


def make(moved: float = 0.4, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Gaussian, Transitions]:
    """(policy, batch): the policy has moved since it drew the batch."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(1, B, *SHAPE, generator=generator, dtype=dtype)

    std = torch.tensor([0.2, 0.5, 0.7, 1.0, 1.6, 0.1], dtype=dtype)
    wide = std[:, None, None, None]
    behaviour = draw()
    policy = (behaviour + moved * wide * draw()).requires_grad_()
    batch = Transitions(
        prompts=("a",) * B,
        steps=torch.arange(B),
        x_t=torch.zeros(1, B, *SHAPE, dtype=dtype),
        x_s=behaviour + wide * draw(),
        credit=torch.tensor([[1.5, -0.5, 0.25, -2.0, 1.0, -1.0]], dtype=dtype),
        weight=torch.tensor([1.0, 1.0, 2.0, 0.5, 1.0, 1.0], dtype=dtype),
        mean=behaviour,
    )
    return Gaussian(policy, std), batch


def log_density(x: list[float], mean: list[float], std: float) -> float:
    """Mean over dimensions."""
    pairs = list(zip(x, mean, strict=True))
    return sum(-((a - b) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi)) for a, b in pairs) / len(pairs)


def flat(values: Tensor) -> list[float]:
    return values.detach().flatten().tolist()


def oracle_ratios(policy: Gaussian, batch: Transitions) -> list[float]:
    assert batch.mean is not None
    ratios = []
    for b in range(len(batch)):
        x, std = flat(batch.x_s[0, b]), float(policy.std[b])
        now, then = (log_density(x, flat(mean[0, b]), std) for mean in (policy.mean, batch.mean))
        ratios.append(math.exp(now - then))
    return ratios


def oracle_loss(ratio: float, advantage: float, clip: float) -> float:
    clipped = min(max(ratio, 1 - clip), 1 + clip)
    return max(-advantage * ratio, -advantage * clipped)


def slopes(loss: Loss, policy: Gaussian) -> Tensor:
    return torch.autograd.grad(loss.per_example.sum(), policy.mean)[0]


@pytest.mark.parametrize("clip", [1e-4, CLIP, 0.9])
def test_losses_agree_with_plain_numbers(clip: float):
    policy, batch = make()
    found = ppo_clip(policy, batch, clip_range=clip).per_example
    advantages = flat(batch.credit[0] * batch.weight)
    pairs = zip(oracle_ratios(policy, batch), advantages, strict=True)
    assert flat(found) == pytest.approx([oracle_loss(ratio, advantage, clip) for ratio, advantage in pairs], rel=1e-9)


def test_golden():
    # One dimension, std 0.5, then 0.1, now 0.3, x = 1: log ratio = (1 - 0.2) 0.2 / 0.25 = 0.64, ratio = 1.896481.
    # A = 2: -2 * 1.1 = -2.2 (clipped); A = -2: +2 * 1.896481 = 3.792962 (not clipped, although outside).
    one = torch.ones(1, 1, 1, 1, 1)
    std = torch.tensor([0.5])
    batch = Transitions(("a",), torch.tensor([0]), 0 * one, one, torch.tensor([[2.0]]), torch.ones(1), mean=0.1 * one)
    policy = Gaussian(0.3 * one, std)
    assert float(ppo_clip(policy, batch, clip_range=0.1).per_example) == pytest.approx(-2.2)
    worse = replace(batch, credit=-batch.credit)
    assert float(ppo_clip(policy, worse, clip_range=0.1).per_example) == pytest.approx(3.792962, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ratio_is_exactly_one_before_the_first_update(dtype: torch.dtype):
    policy, batch = make(moved=0.0, dtype=dtype)
    found = ppo_clip(policy, batch, clip_range=1e-4)
    assert found.metrics["ratio"].tolist() == [1.0] * B
    assert found.metrics["zero_gradient"].tolist() == [0.0] * B
    assert torch.equal(found.per_example.detach(), -batch.credit[0] * batch.weight)


def test_the_first_gradient_is_the_plain_policy_gradient():
    policy, batch = make(moved=0.0)
    found = slopes(ppo_clip(policy, batch, clip_range=1e-4), policy)
    mean = policy.mean.detach().requires_grad_()
    density = Normal(mean[0], policy.std[:, None, None, None]).log_prob(batch.x_s[0]).mean((1, 2, 3))
    (wanted,) = torch.autograd.grad(-(batch.credit[0] * batch.weight * density).sum(), mean)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_there_is_no_gradient_where_moving_on_would_gain_nothing():
    policy, batch = make()
    found = ppo_clip(policy, batch, clip_range=CLIP)
    silent = []
    for ratio, advantage in zip(oracle_ratios(policy, batch), flat(batch.credit), strict=True):
        silent.append(ratio > 1 + CLIP if advantage > 0 else ratio < 1 - CLIP)
    assert set(silent) == {True, False}
    assert [bool((row == 0).all()) for row in slopes(found, policy)[0]] == silent
    assert found.metrics["zero_gradient"].tolist() == [float(value) for value in silent]


def test_a_step_that_went_too_far_the_wrong_way_is_still_pulled_back():
    policy, batch = make()
    ratios = oracle_ratios(policy, batch)
    wrong = [-1.0 if ratio > 1 else 1.0 for ratio in ratios]
    assert all(abs(ratio - 1) > 1e-4 for ratio in ratios)
    found = ppo_clip(policy, replace(batch, credit=torch.tensor([wrong]).double()), clip_range=1e-4)
    assert bool((slopes(found, policy)[0].abs().flatten(1).sum(1) > 0).all())


def test_metrics_are_the_quantities_that_their_names_say():
    policy, batch = make()
    metrics = ppo_clip(policy, batch, clip_range=CLIP).metrics
    ratios = oracle_ratios(policy, batch)
    assert set(metrics) == {"ratio", "zero_gradient"}
    assert metrics["ratio"].tolist() == pytest.approx(ratios, rel=1e-9)
    assert not any(value.requires_grad for value in metrics.values())


def test_a_batch_without_the_policy_that_drew_it_is_refused():
    policy, batch = make()
    with pytest.raises(ValueError, match="keep_mean = true"):
        ppo_clip(policy, replace(batch, mean=None), clip_range=CLIP)
