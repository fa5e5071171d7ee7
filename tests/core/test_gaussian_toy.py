"""Acceptance on Gaussians, where everything is known: the optimum of a preference, and the advantage of a step."""

import math

import pytest
import torch
from torch import Tensor

from experiments.step_reward_labels import TOYS, TRAINED, label_accuracy
from raypref.core.drift import drift as distance
from raypref.core.process import Gaussian
from raypref.core.search import StepReward
from raypref.core.types import Rollout
from raypref.methods.rdpo import RDPO
from raypref.methods.rdpo_kl import RDPOKL
from raypref.methods.rdpo_mild import RDPOMild
from raypref.methods.rdpo_paper import RDPOPaper
from raypref.methods.rdpo_star import RDPOStar
from raypref.methods.stepwise_dpo import StepwiseDPO
from raypref.methods.tailorpo import TailorPO

STD = 0.7  # of the bandit: one step N(mean, STD^2) from one parent, and a reward that is linear in the child


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


SLOPE = torch.tensor([1.0, -0.5, 0.0, 0.8], dtype=torch.float64).reshape(1, 2, 2)


@pytest.mark.parametrize("kind", [TailorPO, RDPOStar])
def test_dpo_on_fresh_bradley_terry_pairs_finds_the_closed_form_optimum(kind: type[StepwiseDPO]):
    # pi* ~ pi_ref exp(r / beta): for a linear reward a shift of the mean by STD^2 slope / beta.
    beta = 0.6
    optimum = STD**2 * SLOPE / beta
    found = train(kind(beta=beta, logp_reduce="sum"), SLOPE, updates=200, luck=True)
    assert float((found - optimum).norm() / optimum.norm()) < 0.05


def test_a_beta_for_means_finds_the_same_optimum():
    optimum = STD**2 * SLOPE / 0.6
    found = train(RDPOStar(beta=0.6 * SLOPE.numel()), SLOPE, updates=200, luck=True)
    assert float((found - optimum).norm() / optimum.norm()) < 0.05


def test_the_divergence_term_stops_short_of_the_optimum_in_the_same_direction():
    held = train(RDPOKL(beta=2.4, kl_coef=0.5), SLOPE, updates=150, luck=True)
    share = float((held * SLOPE).sum() / (held.norm() * SLOPE.norm()))
    assert share > 0.99
    assert 0.2 < float(held.norm()) / float(STD**2 * SLOPE.norm() / 0.6) < 0.7


def reward_gain(method: StepwiseDPO) -> float:
    """What 100 updates on fresh pairs, labelled by the reward itself, do to the reward in 64 dimensions."""
    slope = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 8
    return float((train(method, slope, updates=100, rows=64, rate=0.02) * slope).sum())


@pytest.mark.filterwarnings("ignore:psi_sign")
@pytest.mark.parametrize("psi_lambda", [1.0, 100.0])
def test_psi_as_printed_lowers_the_reward_and_as_intended_it_does_not(psi_lambda: float):
    assert reward_gain(RDPOPaper(psi_lambda=psi_lambda)) < -0.3
    assert reward_gain(RDPO(psi_lambda=psi_lambda)) > 0.0


def test_a_strong_psi_pins_the_policy_to_the_reference_and_a_mild_one_does_not():
    # lambda / beta = 1000 and 5, to either side of the critical 9.65; fresh pairs.
    free, mild, strong = (reward_gain(method) for method in (RDPOStar(), RDPOMild(), RDPO()))
    assert mild > 0.5 * free > 1.0
    assert strong < 0.1 * free


def test_the_mean_log_ratio_of_own_samples_is_the_divergence():
    rows = 20_000
    generator = torch.Generator().manual_seed(0)
    mean = 0.3 * torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    policy, reference = step(mean, rows), step(torch.zeros_like(mean), rows)
    x_s = mean + STD * torch.randn(1, rows, *mean.shape, generator=generator, dtype=torch.float64)
    for reduce in ("mean", "sum"):
        rho = policy.log_ratio(reference, x_s, reduce)
        wanted = float(policy.kl(reference, reduce)[0, 0])
        error = float(rho.std()) / math.sqrt(rows)
        assert abs(float(rho.mean()) - wanted) < 4 * error
        assert wanted > 20 * error  # or the agreement would mean little


@pytest.mark.parametrize("drift", [0.5, 2.0])
def test_losers_rise_by_drift_alone(drift: float):
    # All drift along the reward, of `drift` standard deviations: E[rho] = drift^2 / 2 -+ drift / sqrt(pi) for losers
    # and winners, as the lower and the higher of two normal scores have the means -+ 1 / sqrt(pi).
    rows = 20_000
    mean = drift * STD * SLOPE / SLOPE.norm()
    policy, reference = step(mean, rows), step(torch.zeros_like(mean), rows)
    pairs = RDPOStar().supervise(draw(mean, SLOPE, rows, torch.Generator().manual_seed(0), luck=False))
    metrics = {name: SLOPE.numel() * values for name, values in distance(policy, reference, pairs).items()}
    for name, sign in (("rho_win", 1), ("rho_lose", -1)):
        wanted = drift**2 / 2 + sign * drift / math.sqrt(math.pi)
        assert float(metrics[name].mean()) == pytest.approx(wanted, abs=4 * drift / math.sqrt(rows)), name
        assert float(metrics[f"{name}_excess"].mean()) == pytest.approx(wanted - drift**2 / 2, abs=0.06)
    assert (float(metrics["rho_lose"].mean()) > 0) == (drift > 2 / math.sqrt(math.pi))


@pytest.fixture(scope="module")
def chains() -> dict[str, Rollout]:
    return {name: toy.chains(2000) for name, toy in TOYS.items()}


@pytest.mark.parametrize("name", sorted(TOYS))
def test_the_toys_value_is_the_mean_reward_of_completions(chains: dict[str, Rollout], name: str):
    # Over x_T, and over the two completions of each x_T: V(x_T) explains what both of them share.
    toy, drawn = TOYS[name], chains[name]
    value, final = toy.value(0, drawn.x_t[:, 0, 0]), drawn.final[..., 0]
    error = float(final.std()) / math.sqrt(final.numel())
    assert abs(float((final - value[:, None]).mean())) < 4 * error
    one, two = (final - value[:, None]).T
    shared = float((one * two).mean() / (one.std() * two.std()))
    assert abs(shared) < 4 / math.sqrt(len(one))


def test_across_trajectories_the_gain_of_a_step_labels_it_right_and_its_quality_and_the_picture_do_not(chains):
    for name, least in (("linear", 0.95), ("saturating", 0.8)):
        gain, quality, final = (
            label_accuracy(TOYS[name], chains[name], kind) for kind in ("delta_cross", "q", "final")
        )
        for step in TRAINED[1:]:
            assert gain[step] > least
            assert quality[step] < 0.75
            assert final[step] < 0.65
        assert quality[16] < quality[4]  # what a trajectory had before the step weighs more and more
        assert quality[0] == gain[0] > least  # all start at one x_T: a common parent


@pytest.mark.parametrize("kind", ["lookahead_gain", "lookahead_printed"])
def test_with_a_linear_reward_the_next_steps_gain_is_a_coin_flip(chains: dict[str, Rollout], kind: StepReward):
    accuracy = label_accuracy(TOYS["linear"], chains["linear"], kind)
    assert all(abs(share - 0.5) < 0.06 for share in accuracy.values())


@pytest.mark.parametrize("name", sorted(TOYS))
def test_eq_6_as_printed_ranks_the_worse_step_first(chains: dict[str, Rollout], name: str):
    assert all(share < 0.2 for share in label_accuracy(TOYS[name], chains[name], "delta_parent_printed").values())
