"""What every preference method promises, whichever file it lives in. Methods are found, not listed; traits decide.

Those on labelled pictures promise the same of outputs in the place of Gaussians: test_regression_contracts.py.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from raypref import methods
from raypref.core.process import Gaussian
from raypref.core.search import CHILD, NEEDS, NEXT, PARENT
from raypref.core.types import LOSE, WIN, Rollout, Transitions
from raypref.methods.base import Method, StepMethod
from raypref.registry import named_classes

ALL = named_classes(methods, Method)
METHODS = {name: kind for name, kind in ALL.items() if issubclass(kind, StepMethod)}
SHAPE = (2, 3, 4)
B = 4

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # a method may warn of itself


PAIRED, SINGLE = ([name for name, kind in METHODS.items() if kind.arms == arms] for arms in (2, 1))


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> StepMethod:
    return METHODS[request.param]()


@pytest.fixture(params=sorted(ALL))
def any_method(request: pytest.FixtureRequest) -> Method:
    return ALL[request.param]()


def make(method: StepMethod, drift: float = 0.1, seed: int = 0) -> tuple[Gaussian, Gaussian, Transitions]:
    """(policy, reference, batch): a policy that has drifted from the reference, at a batch that it has drawn itself.

    Of single arms, two have a positive and two a negative advantage.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, *SHAPE, generator=generator, dtype=torch.float64)

    states = method.states_per_row()
    std = torch.tensor([0.3, 0.5, 0.8, 1.1], dtype=torch.float64)
    wide = std[:, None, None, None]
    mean = draw(states, B)
    ours = mean + drift * wide * draw(states, B)
    credit = [[1.0] * B, [0.0] * B] if method.arms == 2 else [[1.0, -1.0, 0.5, -2.0]]
    batch = Transitions(
        prompts=("a",) * B,
        steps=torch.arange(B),
        x_t=mean.clone(),
        x_s=mean + wide * draw(method.arms, B),
        credit=torch.tensor(credit, dtype=torch.float64),
        weight=torch.ones(B, dtype=torch.float64),
        mean=ours.clone() if method.search.keep_mean else None,
    )
    return Gaussian(ours.requires_grad_(), std), Gaussian(mean, std), batch


def turned_round(batch: Transitions) -> Transitions:
    """The batch with the opposite preference."""
    if len(batch.x_s) == 1:
        return replace(batch, credit=-batch.credit)
    return replace(batch, x_t=batch.x_t.flip(0), x_s=batch.x_s.flip(0))


def slopes(method: StepMethod, policy: Gaussian, reference: Gaussian, batch: Transitions) -> Tensor:
    return torch.autograd.grad(method.loss(policy, reference, batch).per_example.sum(), policy.mean)[0]


def rows(policy: Gaussian, reference: Gaussian, batch: Transitions, chosen: list[int]) -> tuple:
    pick = [Gaussian(g.mean[:, chosen], g.std[chosen]) for g in (policy, reference)]
    return *pick, batch.take(torch.tensor(chosen))


def test_pairs_and_single_arms_shared_and_own_parents_are_all_found():
    # Otherwise a part of the contracts below would be empty.
    found = {(kind().arms, kind().search.shares_parent()) for kind in METHODS.values()}
    assert {(2, True), (2, False), (1, False)} <= found


def test_a_method_is_a_frozen_value_with_a_name_a_paper_and_documentation(any_method: Method):
    assert is_dataclass(any_method)
    assert type(any_method).__dataclass_params__.frozen
    assert any_method == type(any_method)()
    assert ALL[any_method.name] is type(any_method)
    assert any_method.paper
    assert any_method.paper in (type(any_method).__doc__ or "")
    assert all(field.name.isidentifier() for field in fields(any_method))


def test_losses_are_finite_one_a_pair_and_reach_the_policy(method: StepMethod):
    policy, reference, batch = make(method)
    loss = method.loss(policy, reference, batch)
    assert loss.per_example.shape == (B,)
    assert bool(loss.per_example.isfinite().all())
    assert bool((slopes(method, policy, reference, batch).flatten(2).abs().sum(2) > 0).all())
    assert all(value.shape == (B,) and not value.requires_grad for value in loss.metrics.values())


def test_ratios_are_exactly_one_where_policy_and_reference_agree(method: StepMethod):
    policy, reference, batch = make(method, drift=0.0)
    metrics = method.objective(policy, reference, batch).metrics
    known = torch.stack([metrics["rho_win"], metrics["rho_lose"]])  # NaN where a row has no such arm
    assert bool((~known.isnan()).any(0).all())
    assert bool((known[~known.isnan()] == 0).all())
    assert torch.count_nonzero(metrics["kl"]) == 0


def test_ratios_are_above_zero_for_what_the_policy_has_raised(method: StepMethod):
    policy, reference, batch = make(method)
    metrics = method.objective(policy, reference, batch).metrics
    for arm, name in ((WIN, "rho_win"), (LOSE, "rho_lose")):
        wanted = ratios(policy, reference, batch)[arm % len(batch.x_s)]
        known = ~metrics[name].isnan()
        assert bool(known.any())
        torch.testing.assert_close(metrics[name][known], wanted[known], rtol=1e-9, atol=1e-12)


def ratios(policy: Gaussian, reference: Gaussian, batch: Transitions) -> Tensor:
    """log policy - log reference of every arm, a mean over elements, by torch.distributions."""
    wide = policy.std[:, None, None, None]
    ours, theirs = (Normal(g.mean.detach().expand_as(batch.x_s), wide).log_prob(batch.x_s) for g in (policy, reference))
    return (ours - theirs).mean((2, 3, 4))


def test_the_reference_gets_no_gradient(method: StepMethod):
    policy, reference, batch = make(method)
    method.loss(policy, reference, batch).per_example.sum().backward()
    assert policy.mean.grad is not None
    assert reference.mean.grad is None
    assert batch.x_s.grad is None


def test_a_pair_of_weight_zero_pulls_at_nothing(method: StepMethod):
    policy, reference, batch = make(method)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    found = slopes(method, policy, reference, replace(batch, weight=weight))
    full = slopes(method, policy, reference, batch)
    assert torch.count_nonzero(found[:, 1]) == 0
    assert torch.equal(found[:, [0, 2, 3]], full[:, [0, 2, 3]])


def test_gradients_do_not_depend_on_micro_batches(method: StepMethod):
    policy, reference, batch = make(method)
    full = slopes(method, policy, reference, batch)
    total = torch.zeros_like(full)
    for chosen in ([0], [1, 2], [3]):
        loss = method.loss(*rows(policy, reference, batch, chosen)).per_example.sum()
        total += torch.autograd.grad(loss, policy.mean)[0]
    torch.testing.assert_close(total, full, rtol=1e-12, atol=1e-15)


def test_gradients_do_not_depend_on_the_order_of_pairs(method: StepMethod):
    policy, reference, batch = make(method)
    order = [2, 0, 3, 1]
    shuffled = method.loss(*rows(policy, reference, batch, order)).per_example
    torch.testing.assert_close(shuffled, method.loss(policy, reference, batch).per_example[order], rtol=1e-12, atol=0)


def lead(mean: Tensor, std: Tensor, batch: Transitions) -> Tensor:
    """log density of winners minus that of losers, or of single arms times the sign of the advantage."""
    density = Normal(mean.expand_as(batch.x_s), std[:, None, None, None]).log_prob(batch.x_s).sum((2, 3, 4))
    return density[WIN] - density[LOSE] if len(density) == 2 else batch.credit[0].sign() * density[0]


def test_a_few_small_updates_from_the_reference_widen_the_winners_lead(method: StepMethod):
    # From the reference: there the ratios are 1, and no penalty on them speaks.
    policy, reference, batch = make(method, drift=0.0)
    mean = policy.mean.detach().clone().requires_grad_()
    before = lead(reference.mean, policy.std, batch)
    for _ in range(5):
        loss = method.loss(Gaussian(mean, policy.std), reference, batch).per_example.sum()
        (slope,) = torch.autograd.grad(loss, mean)
        mean = (mean - 0.05 * slope).detach().requires_grad_()
    assert bool((lead(mean.detach(), policy.std, batch) > before).all())


def test_winning_arms_are_told_from_losing_arms(method: StepMethod):
    policy, reference, batch = make(method, drift=0.0)
    there = slopes(method, policy, reference, batch)
    back = slopes(
        method,
        Gaussian(policy.mean.flip(0), policy.std),
        Gaussian(reference.mean.flip(0), reference.std),
        turned_round(batch),
    )
    torch.testing.assert_close(there, -back.flip(0), rtol=1e-12, atol=1e-15)
    assert float(there.abs().max()) > 0


def test_the_objective_adds_the_divergence_from_the_reference(method: StepMethod):
    policy, reference, batch = make(method, drift=0.3)
    held = replace(method, kl_coef=0.7).objective(policy, reference, batch)
    plain = replace(method, kl_coef=0.0).objective(policy, reference, batch)
    loss = method.loss(policy, reference, batch)
    wide = policy.std[:, None, None, None]
    kl = kl_divergence(Normal(policy.mean, wide), Normal(reference.mean, wide)).mean((0, 2, 3, 4))
    assert torch.equal(plain.per_example, loss.per_example)
    torch.testing.assert_close(held.per_example, loss.per_example + 0.7 * kl, rtol=1e-10, atol=1e-12)
    assert float(kl.min()) > 0.01
    assert set(held.metrics) == set(plain.metrics) > set(loss.metrics)
    slope, wanted = (
        torch.autograd.grad(total.sum(), policy.mean, retain_graph=True)[0]
        for total in (held.per_example, loss.per_example + 0.7 * kl)
    )
    torch.testing.assert_close(slope, wanted, rtol=1e-9, atol=1e-12)


def recorded(method: StepMethod, scores: Tensor, rewards: int = 1) -> Rollout:
    """A rollout of two prompts as this method's search shapes it; candidate g scores scores[g] in every reward, and
    scores that the search does not ask for are missing."""
    search = method.search
    steps, group, needs = len(search.recorded()), search.candidates, NEEDS[search.step_reward]
    states = 1 if search.shares_parent() else group

    def latents(count: int, base: float) -> Tensor:
        return base + torch.arange(2 * count * steps).float().reshape(2, count, steps, 1, 1, 1)

    def scored(values: Tensor, needed: bool) -> Tensor:
        shape = (2, len(values), steps, rewards)
        return values[None, :, None, None].expand(shape) if needed else torch.full(shape, torch.nan)

    return Rollout(
        prompts=("a", "b"),
        steps=torch.tensor(search.recorded()),
        x_t=latents(states, 1000.0),
        x_s=latents(group, 2000.0),
        value=scored(scores, CHILD in needs),
        parent_value=scored(0 * scores[:states], PARENT in needs),
        next_value=scored(2 * scores, NEXT in needs),
        final=scores[None, :, None].expand(2, group, rewards)
        if search.step_reward == "final"
        else torch.full((2, group, rewards), torch.nan),
        mean=latents(states, 3000.0) if search.keep_mean else None,
        policy_version=0,
        policy_checksum="",
    )


def rising(method: StepMethod) -> Tensor:
    """Scores that rise with the candidate's number, far enough apart for any threshold; none is their mean."""
    return 10 * torch.arange(method.search.candidates).float() ** 2


@pytest.mark.parametrize("rewards", [1, 2])
def test_supervise_uses_every_step_of_every_prompt(method: StepMethod, rewards: int):
    batch = method.supervise(recorded(method, rising(method), rewards))
    count, paths = len(method.search.recorded()), 1 if method.arms == 2 else method.search.candidates
    assert len(batch) == 2 * method.rows_per_prompt() == 2 * paths * count
    assert batch.prompts == ("a",) * paths * count + ("b",) * paths * count
    assert batch.steps.tolist() == list(method.search.recorded()) * 2 * paths
    assert len(batch.x_t) == method.states_per_row()
    assert len(batch.x_s) == len(batch.credit) == method.arms
    assert batch.weight.tolist() == [1.0] * len(batch)
    assert batch.dropped == {"unscored": 0, "tie": 0, "incomparable": 0, "threshold": 0}


@pytest.mark.parametrize("method", PAIRED, indirect=True)
def test_supervise_puts_the_best_first_and_the_worst_second_each_with_its_parent(method: StepMethod):
    rollout = recorded(method, rising(method))
    pairs = method.supervise(rollout)
    best = method.search.candidates - 1
    assert torch.equal(pairs.x_s[WIN].flatten(), rollout.x_s[:, best].flatten())
    assert torch.equal(pairs.x_s[LOSE].flatten(), rollout.x_s[:, 0].flatten())
    assert torch.equal(pairs.x_t[0].flatten(), rollout.x_t[:, best if method.states_per_row() == 2 else 0].flatten())
    assert torch.equal(pairs.x_t[-1].flatten(), rollout.x_t[:, 0].flatten())
    assert bool((pairs.credit[WIN] > pairs.credit[LOSE]).all())


@pytest.mark.parametrize("method", SINGLE, indirect=True)
def test_supervise_credits_better_trajectories_with_more(method: StepMethod):
    rollout = recorded(method, rising(method))
    batch = method.supervise(rollout)
    assert torch.equal(batch.x_s.flatten(), rollout.x_s.flatten())
    assert torch.equal(batch.x_t.flatten(), rollout.x_t.flatten())
    credit = batch.credit.reshape(2, method.search.candidates, -1)
    assert bool((credit.diff(dim=1) > 0).all())
    assert bool((credit[:, 0] < 0).all())
    assert bool((credit[:, -1] > 0).all())


def test_supervise_hands_on_the_means_that_the_search_kept(method: StepMethod):
    batch = method.supervise(recorded(method, rising(method)))
    assert (batch.mean is not None) == method.search.keep_mean
    if batch.mean is not None:
        assert torch.equal(batch.mean, batch.x_t + 2000)


@pytest.mark.parametrize(("score", "reason"), [(0.3, "tie"), (float("nan"), "unscored")])
def test_supervise_finds_nothing_in_ties_and_missing_scores_and_says_so(method: StepMethod, score: float, reason: str):
    batch = method.supervise(recorded(method, torch.full((method.search.candidates,), score)))
    assert len(batch) == 0
    nothing = {"unscored": 0, "tie": 0, "incomparable": 0, "threshold": 0}
    assert batch.dropped == nothing | {reason: 2 * method.rows_per_prompt()}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"beta": 0.0}, "beta = 0.0: use a positive number"),
    ({"beta": -1.0}, "beta = -1.0"),
    ({"psi_lambda": -1.0}, "psi_lambda = -1.0: .*psi_sign"),
    ({"ratio_clip_eps": -0.1}, "ratio_clip_eps = -0.1"),
    ({"ratio_clip_eps": 1.0}, "ratio_clip_eps = 1.0"),
    ({"threshold": -0.1}, "threshold = -0.1: use 0"),
    ({"threshold": 1.0}, "threshold = 1.0: .*a number below 1"),
    ({"kl_coef": -0.01}, "kl_coef = -0.01: use 0"),
    ({"clip_range": 0.0}, "clip_range = 0.0: use a number between 0 and 1"),
    ({"clip_range": 1.0}, "clip_range = 1.0"),
    ({"adv_clip_max": 0.0}, "adv_clip_max = 0.0: use a positive number"),
    ({"margin_scale": 0.0}, "margin_scale = 0.0: use a positive number, such as"),
    ({"snr_value": 0.0}, "snr_value = 0.0: use a positive number, such as 0.5"),
    ({"switch": -0.1}, "switch = -0.1: use 0"),
    ({"margin": -0.1}, "margin = -0.1: use 0 or more"),
    ({"desirable_weight": 0.0}, "desirable_weight = 0.0: use a positive number, such as 1"),
    ({"undesirable_weight": -1.0}, "undesirable_weight = -1.0: use a positive number"),
]


def test_impossible_hyper_parameters_are_refused(any_method: Method):
    known = {field.name for field in fields(any_method)}
    for settings, message in REFUSED:
        if set(settings) <= known:
            with pytest.raises(ValueError, match=message):
                replace(any_method, **settings)
