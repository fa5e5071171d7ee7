"""Acceptance on Gaussians, where everything is known: the optimum of a preference, and the advantage of a step."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raypref.core.process import Gaussian, Process, ddim
from raypref.core.search import StepReward
from raypref.core.supervise import best_vs_worst, step_reward
from raypref.core.types import Rollout, Transitions
from raypref.methods.rdpo import RDPO
from raypref.methods.rdpo_kl import RDPOKL
from raypref.methods.rdpo_star import RDPOStar
from raypref.methods.stepwise_dpo import StepwiseDPO
from raypref.methods.tailorpo import TailorPO
from tests.toys import sd_schedule

# --- one step: a bandit whose policy is N(mean, STD^2), whose reward is linear -------------------------------------

STD = 0.7


def step(mean: Tensor, rows: int) -> Gaussian:
    """The policy's step from one parent, the same in every row."""
    return Gaussian(mean.expand(1, rows, *mean.shape), torch.full((rows,), STD, dtype=torch.float64))


def draw(mean: Tensor, slope: Tensor, rows: int, generator: torch.Generator, luck: bool) -> Rollout:
    """Two children of one parent a row, scored by slope . x.

    With luck, scores get Gumbel noise: the higher one is then a preference drawn from the Bradley-Terry model.
    """
    x_s = mean + STD * torch.randn(rows, 2, 1, *mean.shape, generator=generator, dtype=torch.float64)
    value = (x_s * slope).sum((-3, -2, -1))[..., None]
    if luck:
        value = value - torch.rand(value.shape, generator=generator, dtype=torch.float64).log().neg().log()
    return Rollout(
        prompts=("a",) * rows,
        steps=torch.tensor([0]),
        x_t=torch.zeros(rows, 1, 1, *mean.shape),
        x_s=x_s,
        value=value,
        parent_value=torch.zeros(rows, 1, 1, 1),
        next_value=torch.full_like(value, torch.nan),
        final=torch.full((rows, 2, 1), torch.nan),
        mean=None,
        policy_version=0,
        policy_checksum="",
    )


def train(
    method: StepwiseDPO, slope: Tensor, updates: int, rows: int = 256, rate: float = 0.05, luck: bool = False
) -> Tensor:
    """The mean after on-policy updates on fresh pairs by Adam, from a reference at 0; averaged over the last half."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.zeros_like(slope, requires_grad=True)
    reference = step(torch.zeros_like(slope), rows)
    optimizer = torch.optim.Adam([mean], lr=rate)
    late = []
    for update in range(updates):
        pairs = method.supervise(draw(mean.detach(), slope, rows, generator, luck))
        assert len(pairs) == rows
        optimizer.zero_grad()
        method.objective(step(mean, rows), reference, pairs).per_example.mean().backward()
        optimizer.step()
        if update >= updates // 2:
            late.append(mean.detach().clone())
    return torch.stack(late).mean(0)


@pytest.mark.parametrize("kind", [TailorPO, RDPOStar])
def test_dpo_on_fresh_bradley_terry_pairs_finds_the_closed_form_optimum(kind: type[StepwiseDPO]):
    # pi* ~ pi_ref exp(r / beta): for a linear reward a shift of the mean by STD^2 slope / beta.
    slope = torch.tensor([1.0, -0.5, 0.0, 0.8], dtype=torch.float64).reshape(1, 2, 2)
    beta = 0.6
    optimum = STD**2 * slope / beta
    found = train(kind(beta=beta, logp_reduce="sum"), slope, updates=300, luck=True)
    distance = float((found - optimum).norm() / optimum.norm())
    assert distance < 0.03, distance


def test_the_divergence_term_shrinks_the_optimum():
    slope = torch.tensor([1.0, -0.5, 0.0, 0.8], dtype=torch.float64).reshape(1, 2, 2)
    free, held = (train(RDPOKL(beta=2.4, kl_coef=kappa), slope, 300, luck=True) for kappa in (0.0, 1.0))
    print(float((free - STD**2 * slope / 0.6).norm()), held.norm() / free.norm())
