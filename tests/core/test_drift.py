"""The figures of drift against plain numbers: loops over rows and dimensions, math.log, no tensors."""

import math

import pytest
import torch
from torch import Tensor

from raypref.core.drift import drift
from raypref.core.process import Gaussian
from raypref.core.types import LOSE, WIN, Transitions

B, SHAPE = 4, (2, 1, 3)
STD = (0.2, 0.5, 1.0, 1.6)


def make(arms: int, states: int, moved: float = 0.4) -> tuple[Gaussian, Gaussian, Transitions]:
    """(policy, reference, batch); of single arms the first and the last have a positive advantage."""
    generator = torch.Generator().manual_seed(10)

    def draw(rows: int) -> Tensor:
        return torch.randn(rows, B, *SHAPE, generator=generator, dtype=torch.float64)

    std = torch.tensor(STD, dtype=torch.float64)
    wide = std[:, None, None, None]
    reference = draw(states)
    policy = (reference + moved * wide * draw(states)).requires_grad_()
    credit = [[1.0] * B, [0.0] * B] if arms == 2 else [[1.0, -1.0, -0.5, 2.0]]
    batch = Transitions(
        prompts=("a",) * B,
        steps=torch.arange(B),
        x_t=torch.zeros_like(reference),
        x_s=reference + wide * draw(arms),
        credit=torch.tensor(credit, dtype=torch.float64),
        weight=torch.ones(B, dtype=torch.float64),
    )
    return Gaussian(policy, std), Gaussian(reference, std), batch


def flat(values: Tensor) -> list[float]:
    return values.detach().flatten().tolist()


def log_density(x: list[float], mean: list[float], std: float) -> float:
    """Mean over dimensions."""
    pairs = list(zip(x, mean, strict=True))
    return sum(-((a - b) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi)) for a, b in pairs) / len(pairs)


def oracle(policy: Gaussian, reference: Gaussian, batch: Transitions, arm: int, b: int) -> tuple[float, float]:
    """(rho, KL) of an arm at its own parent."""
    parent = min(arm, len(policy.mean) - 1)
    x, ours, theirs = (flat(v) for v in (batch.x_s[arm, b], policy.mean[parent, b], reference.mean[parent, b]))
    kl = sum((p - q) ** 2 for p, q in zip(ours, theirs, strict=True)) / (2 * STD[b] ** 2 * len(x))
    return log_density(x, ours, STD[b]) - log_density(x, theirs, STD[b]), kl


def radius(policy: Gaussian, batch: Transitions, b: int) -> float:
    pairs = list(zip(flat(batch.x_s[WIN, b]), flat(policy.mean[0, b]), strict=True))
    return math.sqrt(sum((x - mean) ** 2 for x, mean in pairs) / len(pairs)) / STD[b]


@pytest.mark.parametrize("states", [1, 2])
def test_pairs(states: int):
    policy, reference, batch = make(2, states)
    figures = drift(policy, reference, batch)
    correct = []
    for b in range(B):
        (won, kl_won), (lost, kl_lost) = (oracle(policy, reference, batch, arm, b) for arm in (WIN, LOSE))
        wanted = {"rho_win": won, "rho_lose": lost, "rho_win_excess": won - kl_won, "rho_lose_excess": lost - kl_lost}
        wanted |= {"kl": (kl_won + kl_lost) / 2, "accuracy": float(won > lost), "radius_win": radius(policy, batch, b)}
        correct.append(won > lost)
        assert {name: float(values[b]) for name, values in figures.items()} == pytest.approx(wanted, rel=1e-9)
    assert set(correct) == {True, False}


def test_single_steps_are_won_where_their_advantage_is_positive():
    policy, reference, batch = make(1, 1)
    figures = drift(policy, reference, batch)
    assert set(figures) == {"kl", "rho_win", "rho_lose", "rho_win_excess", "rho_lose_excess"}
    for b, (kind, other) in enumerate([("win", "lose"), ("lose", "win"), ("lose", "win"), ("win", "lose")]):
        rho, kl = oracle(policy, reference, batch, 0, b)
        assert float(figures["kl"][b]) == pytest.approx(kl, rel=1e-9)
        assert float(figures[f"rho_{kind}"][b]) == pytest.approx(rho, rel=1e-9)
        assert float(figures[f"rho_{kind}_excess"][b]) == pytest.approx(rho - kl, rel=1e-9)
        assert math.isnan(float(figures[f"rho_{other}"][b]))
        assert math.isnan(float(figures[f"rho_{other}_excess"][b]))


def test_a_policy_that_is_its_reference_decides_nothing():
    figures = drift(*make(2, 1, moved=0.0))
    assert figures.pop("accuracy").tolist() == [0.5] * B
    assert bool((figures.pop("radius_win") > 0.4).all())
    assert all(torch.count_nonzero(values) == 0 for values in figures.values())


def test_figures_take_no_gradient():
    assert not any(values.requires_grad for values in drift(*make(2, 2)).values())
