"""What every preference method promises, whichever file it lives in. Methods are found, not listed; traits decide."""

import math
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from torch.distributions import Normal

from raypref import methods
from raypref.core.process import Gaussian
from raypref.core.types import LOSE, WIN, Rollout, Transitions
from raypref.methods.base import Method
from raypref.registry import named_classes

METHODS = named_classes(methods, Method)
SHAPE = (2, 3, 4)
B = 4


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]()


def states_of(method: Method) -> int:
    return 1 if method.search.shape == "tree" else 2


def make(method: Method, drift: float = 0.1, seed: int = 0) -> tuple[Gaussian, Gaussian, Transitions]:
    generator = torch.Generator().manual_seed(seed)
    states = states_of(method)
    std = torch.tensor([0.3, 0.5, 0.8, 1.1], dtype=torch.float64)
    wide = std[:, None, None, None]
    mean = torch.randn(states, B, *SHAPE, generator=generator, dtype=torch.float64)
    ours = (mean + drift * wide * torch.randn(mean.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    x_s = mean + wide * torch.randn(2, B, *SHAPE, generator=generator, dtype=torch.float64)
    credit = torch.tensor([[1.0] * B, [0.0] * B])
    weight = torch.ones(B, dtype=torch.float64)
    batch = Transitions(("a",) * B, torch.arange(B), mean.clone(), x_s, credit, weight)
    return Gaussian(ours, std), Gaussian(mean, std), batch


def slopes(method: Method, policy: Gaussian, reference: Gaussian, batch: Transitions) -> torch.Tensor:
    return torch.autograd.grad(method.loss(policy, reference, batch).per_example.sum(), policy.mean)[0]


def rows(policy: Gaussian, reference: Gaussian, batch: Transitions, chosen: list[int]) -> tuple:
    pick = [Gaussian(g.mean[:, chosen], g.std[chosen]) for g in (policy, reference)]
    return *pick, batch.take(torch.tensor(chosen))


def test_at_least_the_three_step_wise_methods_are_found():
    assert {"d3po", "rdpo", "tailorpo"} <= set(METHODS)


def test_a_method_is_a_frozen_value_with_a_name_a_paper_and_documentation(method: Method):
    assert is_dataclass(method)
    assert type(method).__dataclass_params__.frozen
    assert method == type(method)()
    assert METHODS[method.name] is type(method)
    assert method.paper
    assert method.paper in (type(method).__doc__ or "")
    assert all(field.name.isidentifier() for field in fields(method))


def test_losses_are_finite_one_a_pair_and_reach_the_policy(method: Method):
    policy, reference, batch = make(method)
    loss = method.loss(policy, reference, batch)
    assert loss.per_example.shape == (B,)
    assert bool(loss.per_example.isfinite().all())
    assert bool((slopes(method, policy, reference, batch).flatten(2).abs().sum(2) > 0).all())
    assert all(value.shape == (B,) and not value.requires_grad for value in loss.metrics.values())


def test_the_loss_is_neutral_where_policy_and_reference_agree(method: Method):
    policy, reference, batch = make(method, drift=0.0)
    found = method.loss(policy, reference, batch).per_example
    torch.testing.assert_close(found, torch.full_like(found, method.neutral), rtol=1e-12, atol=0)


def test_the_reference_gets_no_gradient(method: Method):
    policy, reference, batch = make(method)
    method.loss(policy, reference, batch).per_example.sum().backward()
    assert reference.mean.grad is None
    assert batch.x_s.grad is None


def test_a_pair_of_weight_zero_pulls_at_nothing(method: Method):
    policy, reference, batch = make(method)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    found = slopes(method, policy, reference, replace(batch, weight=weight))
    full = slopes(method, policy, reference, batch)
    assert torch.count_nonzero(found[:, 1]) == 0
    assert torch.equal(found[:, [0, 2, 3]], full[:, [0, 2, 3]])


def test_gradients_do_not_depend_on_micro_batches(method: Method):
    policy, reference, batch = make(method)
    full = slopes(method, policy, reference, batch)
    total = torch.zeros_like(full)
    for chosen in ([0], [1, 2], [3]):
        loss = method.loss(*rows(policy, reference, batch, chosen)).per_example.sum()
        total += torch.autograd.grad(loss, policy.mean)[0]
    torch.testing.assert_close(total, full, rtol=1e-12, atol=1e-15)


def test_gradients_do_not_depend_on_the_order_of_pairs(method: Method):
    policy, reference, batch = make(method)
    order = [2, 0, 3, 1]
    shuffled = method.loss(*rows(policy, reference, batch, order)).per_example
    torch.testing.assert_close(shuffled, method.loss(policy, reference, batch).per_example[order], rtol=1e-12, atol=0)


def lead(mean: torch.Tensor, std: torch.Tensor, x_s: torch.Tensor) -> torch.Tensor:
    """log density of winners minus that of losers, by torch.distributions."""
    wide = std[:, None, None, None]
    centers = mean.expand_as(x_s)
    return sum(
        sign * Normal(centers[arm], wide).log_prob(x_s[arm]).sum((1, 2, 3)) for arm, sign in ((WIN, 1), (LOSE, -1))
    )


def test_a_few_small_updates_widen_the_winners_lead(method: Method):
    policy, reference, batch = make(method, drift=0.0)
    mean = policy.mean.detach().clone().requires_grad_()
    before = lead(reference.mean, policy.std, batch.x_s)
    for _ in range(5):
        loss = method.loss(Gaussian(mean, policy.std), reference, batch).per_example.sum()
        (slope,) = torch.autograd.grad(loss, mean)
        mean = (mean - 0.05 * slope).detach().requires_grad_()
    assert bool((lead(mean.detach(), policy.std, batch.x_s) > before).all())


def test_winning_arms_are_told_from_losing_arms(method: Method):
    policy, reference, batch = make(method, drift=0.0)
    there = slopes(method, policy, reference, batch)
    back = slopes(
        method,
        Gaussian(policy.mean.flip(0), policy.std),
        Gaussian(reference.mean.flip(0), reference.std),
        replace(batch, x_t=batch.x_t.flip(0), x_s=batch.x_s.flip(0)),
    )
    torch.testing.assert_close(there, -back.flip(0), rtol=1e-12, atol=1e-15)
    assert float(there.abs().max()) > 0


def recorded(method: Method, ties: bool = False) -> Rollout:
    """A rollout of two prompts as this method's search shapes it; candidate g scores g (or all score alike)."""
    search = method.search
    group, steps = search.candidates, len(search.steps)
    states = 1 if search.shape == "tree" else group
    score = torch.zeros(group) if ties else torch.arange(group).float()
    stepwise = search.step_reward != "final"
    return Rollout(
        prompts=("a", "b"),
        steps=torch.tensor(search.steps),
        x_t=torch.arange(2 * states * steps).float().reshape(2, states, steps, 1, 1, 1),
        x_s=torch.arange(2 * group * steps).float().reshape(2, group, steps, 1, 1, 1),
        value=score[None, :, None].expand(2, group, steps) if stepwise else torch.full((2, group, steps), torch.nan),
        parent_value=torch.zeros(2, states, steps) if stepwise else torch.full((2, states, steps), torch.nan),
        final=torch.full((2, group), torch.nan) if stepwise else score.expand(2, group),
        policy_version=0,
        policy_checksum="",
    )


def test_supervise_pairs_every_step_of_every_prompt_winner_first(method: Method):
    rollout = recorded(method)
    pairs = method.supervise(rollout)
    count, last = len(method.search.steps), method.search.candidates - 1
    assert pairs.prompts == ("a",) * count + ("b",) * count
    assert pairs.steps.tolist() == list(method.search.steps) * 2
    assert len(pairs.x_t) == states_of(method)
    assert torch.equal(pairs.x_s[WIN].flatten(), rollout.x_s[:, last].flatten())
    assert torch.equal(pairs.x_s[LOSE].flatten(), rollout.x_s[:, 0].flatten())
    assert torch.equal(pairs.x_t[0].flatten(), rollout.x_t[:, last if states_of(method) == 2 else 0].flatten())
    assert torch.equal(pairs.x_t[-1].flatten(), rollout.x_t[:, 0].flatten())
    assert bool((pairs.credit[WIN] > pairs.credit[LOSE]).all())


def test_supervise_finds_nothing_in_ties(method: Method):
    assert len(method.supervise(recorded(method, ties=True))) == 0


def test_the_neutral_loss_is_that_of_a_fair_coin(method: Method):
    assert method.neutral == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta = 0.0: use a positive number"),
        ({"beta": -1.0}, "beta = -1.0"),
        ({"psi_lambda": -1.0}, "psi_lambda = -1.0: .*psi_sign"),
        ({"ratio_clip_eps": -0.1}, "ratio_clip_eps = -0.1"),
        ({"ratio_clip_eps": 1.0}, "ratio_clip_eps = 1.0"),
    ],
)
def test_impossible_hyper_parameters_are_refused(method: Method, settings: dict, message: str):
    if not set(settings) <= {field.name for field in fields(method)}:
        pytest.skip("this method has no such hyper-parameter")
    with pytest.raises(ValueError, match=message):
        replace(method, **settings)
