"""What every method on labelled pictures promises. Methods are found, not listed; traits decide."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raypref import methods
from raypref.core.process import ddim
from raypref.core.regression import OwnSamples, Regression, gain
from raypref.core.seeding import Key
from raypref.core.types import LOSE, WIN, Loss, Preferences
from raypref.methods.regression import RegressionMethod
from raypref.registry import named_classes
from tests.toys import sd_schedule

METHODS = named_classes(methods, RegressionMethod)
SHAPE = (2, 3, 4)
B = 4
SCHEDULE = sd_schedule()
KEY = Key(4)("regression", 0)


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> RegressionMethod:
    return METHODS[request.param]()


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(method: RegressionMethod) -> Tensor:
    mixed = method.reads == 1 and not method.desirable_only
    return torch.tensor([1.0, 0.0, 1.0, 0.0] if mixed else [1.0] * B, dtype=torch.float64)


def make(method: RegressionMethod, drift: float = 0.001) -> tuple[Tensor, Tensor, Regression]:
    """(policy, reference, batch): a policy that has drifted from the reference, away from the targets of what it should
    have come nearer to and towards those that it should have left: every hinge is active."""
    reference, target = draws(method.arms, B, *SHAPE), draws(method.arms, B, *SHAPE, seed=1)
    wrong = torch.ones(method.arms, B, dtype=torch.float64)
    wrong[LOSE:] = -1
    if method.arms == 1:
        wrong[0] = 2 * labels(method) - 1
    noise = 0.1 * draws(method.arms, B, *SHAPE, seed=2)
    policy = reference + drift * (wrong[..., None, None, None] * (reference - target) + noise)
    batch = Regression(
        prompts=tuple("abcd"),
        t=torch.tensor([1, 300, 600, 999]),
        band=torch.tensor([9, 6, 3, 0]),
        x_t=draws(method.arms, B, *SHAPE, seed=3),
        target=target,
        label=labels(method),
        weight=torch.ones(B, dtype=torch.float64),
    )
    if method.coupled:
        batch = replace(batch, baseline=gain(policy, reference, batch).mean().expand(B))
    return policy.requires_grad_(), reference, batch


def slopes(method: RegressionMethod, policy: Tensor, reference: Tensor, batch: Regression) -> Tensor:
    return torch.autograd.grad(method.loss(policy, reference, batch).per_example.sum(), policy)[0]


def some(method: RegressionMethod, policy: Tensor, reference: Tensor, batch: Regression, rows: list[int]) -> Loss:
    return method.loss(policy[:, rows], reference[:, rows], batch.take(torch.tensor(rows)))


def test_pairs_and_single_pictures_with_and_without_own_samples_are_all_found():
    found = {(kind.reads, kind.arms, kind.own) for kind in METHODS.values()}
    assert {(2, 2, "none"), (1, 1, "none"), (1, 2, "finished"), (1, 2, "on_the_way")} <= found
    for trait in ("reference_free", "coupled", "against_iterate", "desirable_only"):
        assert {getattr(kind, trait) for kind in METHODS.values()} == {True, False}


def test_losses_are_finite_one_a_row_and_reach_the_policy(method: RegressionMethod):
    policy, reference, batch = make(method)
    loss = method.loss(policy, reference, batch)
    assert loss.per_example.shape == (B,)
    assert bool(loss.per_example.isfinite().all())
    assert bool((slopes(method, policy, reference, batch)[WIN].flatten(1).abs().sum(1) > 0).all())
    assert all(value.shape == (B,) and not value.requires_grad for value in loss.metrics.values())


def test_figures_are_exactly_zero_where_policy_and_reference_agree(method: RegressionMethod):
    policy, reference, batch = make(method, drift=0.0)
    metrics = method.objective(policy, reference, batch).metrics
    known = torch.stack([metrics["rho_win"], metrics["rho_lose"]])  # NaN where a row has no such arm
    assert bool((~known.isnan()).any(0).all())
    assert bool((known[~known.isnan()] == 0).all())
    assert torch.count_nonzero(metrics["kl"]) == 0


def test_figures_are_above_zero_for_what_the_policy_explains_better(method: RegressionMethod):
    policy, reference, batch = make(method)
    metrics = method.objective(policy, reference, batch).metrics
    found = (reference - batch.target).square().mean((2, 3, 4)) - (policy - batch.target).square().mean((2, 3, 4))
    for arm, name in ((WIN, "rho_win"), (LOSE, "rho_lose")):
        known = ~metrics[name].isnan()
        torch.testing.assert_close(metrics[name][known], found.detach()[arm % method.arms][known], rtol=1e-9, atol=0)
    assert bool((metrics["rho_win"][~metrics["rho_win"].isnan()] < 0).all())


def test_the_reference_gets_no_gradient(method: RegressionMethod):
    policy, reference, batch = make(method)
    method.loss(policy, reference, batch).per_example.sum().backward()
    assert policy.grad is not None
    assert reference.grad is None


def test_a_row_of_weight_zero_pulls_at_nothing(method: RegressionMethod):
    policy, reference, batch = make(method)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    found = slopes(method, policy, reference, replace(batch, weight=weight))
    full = slopes(method, policy, reference, batch)
    assert torch.count_nonzero(found[:, 1]) == 0
    assert torch.equal(found[:, [0, 2, 3]], full[:, [0, 2, 3]])


def test_gradients_do_not_depend_on_micro_batches_or_on_the_order_of_rows(method: RegressionMethod):
    policy, reference, batch = make(method)
    whole = method.loss(policy, reference, batch).per_example
    for rows in ([0], [2, 1], [3]):
        torch.testing.assert_close(some(method, policy, reference, batch, rows).per_example, whole[rows], rtol=1e-12,
                                   atol=0)  # fmt: skip


def test_only_a_coupled_loss_reads_a_baseline_and_without_one_takes_its_own_rows(method: RegressionMethod):
    policy, reference, batch = make(method)
    found, other = (
        method.loss(policy, reference, replace(batch, baseline=usual)).per_example
        for usual in (None, torch.full((B,), 0.01, dtype=torch.float64))
    )
    assert torch.equal(found, method.loss(policy, reference, batch).per_example)
    assert (found.tolist() != other.tolist()) == method.coupled


def lead(policy: Tensor, batch: Regression) -> Tensor:
    """By how much better the winner's target is met than the loser's; of single pictures, how well it is met, and of
    undesirable ones how badly."""
    errors = (policy - batch.target).square().mean((2, 3, 4))
    return errors[LOSE] - errors[WIN] if len(errors) == 2 else (1 - 2 * batch.label) * errors[0]


def test_a_few_small_updates_from_the_reference_widen_the_winners_lead(method: RegressionMethod):
    policy, reference, batch = make(method, drift=0.0)
    before = lead(policy.detach(), batch)
    now = policy.detach().clone().requires_grad_()
    for _ in range(3):
        slope = slopes(method, now, reference, replace(batch, baseline=None))
        assert float(slope.abs().max()) > 0
        now = (now - 1e-4 * slope / slope.norm()).detach().requires_grad_()
    assert bool((lead(now.detach(), batch) > before).all())


@pytest.mark.parametrize("name", sorted(name for name, kind in METHODS.items() if kind.reads == 2))
def test_a_tie_has_the_expected_loss_of_both_orders(name: str):
    method = METHODS[name]()
    policy, reference, batch = make(method)
    label = torch.tensor([1.0, 0.5, 0.8, 1.0], dtype=torch.float64)
    found = method.objective(policy, reference, replace(batch, label=label)).per_example
    one = method.loss(policy, reference, batch).per_example
    other = method.loss(policy.flip(0), reference.flip(0), replace(batch, target=batch.target.flip(0))).per_example
    torch.testing.assert_close(found, label * one + (1 - label) * other, rtol=1e-12, atol=0)
    assert one.tolist()[1] != other.tolist()[1]


def test_the_objective_adds_the_divergence_from_the_reference(method: RegressionMethod):
    policy, reference, batch = make(method, drift=0.3)
    held = replace(method, kl_coef=0.7).objective(policy, reference, batch)
    plain = replace(method, kl_coef=0.0).objective(policy, reference, batch)
    kl = (policy - reference).square().mean((0, 2, 3, 4))
    torch.testing.assert_close(held.per_example, plain.per_example + 0.7 * kl, rtol=1e-12, atol=1e-15)
    assert kl.min().item() > 0.01
    assert set(held.metrics) == set(plain.metrics)


def test_a_method_without_a_reference_says_so_and_reads_none(method: RegressionMethod):
    assert method.needs_reference() == (not method.reference_free)
    assert replace(method, kl_coef=0.1).needs_reference()
    if method.reference_free:
        policy, reference, batch = make(method)
        found = method.objective(policy, None, batch)
        assert torch.equal(found.per_example, method.objective(policy, reference, batch).per_example)
        assert bool(torch.stack([found.metrics[name] for name in ("rho_win", "rho_lose", "kl")]).isnan().all())


def labelled(method: RegressionMethod, items: tuple[int, ...] = (7, 3, 7, 12)) -> Preferences:
    """The same row twice, and pictures that tell what they belong to."""
    x_0 = torch.stack([10.0 * arm + torch.tensor(items).float() for arm in range(method.reads)])
    return Preferences(
        prompts=tuple(f"prompt {item}" for item in items),
        x_0=x_0[..., None, None, None].expand(-1, -1, *SHAPE).contiguous(),
        label=labels(method).float()[: len(items)],
        items=torch.tensor(items),
    )


def drawn(method: RegressionMethod, prompts: tuple[str, ...]) -> OwnSamples | None:
    if method.own == "none":
        return None
    latents = 100.0 + torch.arange(len(prompts))[:, None, None, None].expand(-1, *SHAPE)
    t = ddim(SCHEDULE, 4, 1.0).t[: len(prompts)]
    if method.own == "finished":
        return OwnSamples(prompts, latents, None, 0 * t, 0, "")
    return OwnSamples(prompts, latents, latents + 50, t, 0, "")


def supervised(method: RegressionMethod, found: Preferences, key: Key = KEY) -> Regression:
    return method.supervise(found, drawn(method, found.prompts), SCHEDULE, key)


def test_supervise_gives_a_row_for_every_row_and_explains_its_noise(method: RegressionMethod):
    found = labelled(method)
    batch = supervised(method, found)
    assert batch.prompts == found.prompts
    assert len(batch) == B == B * method.rows_per_prompt()
    assert len(batch.x_t) == len(batch.target) == method.arms == method.states_per_row()
    assert torch.equal(batch.label, found.label)
    assert batch.weight.tolist() == [1.0] * B
    assert batch.dropped == {}
    alpha_bar = SCHEDULE.alphas_cumprod[batch.t].float()[:, None, None, None]
    noise = (batch.x_t[: method.reads] - alpha_bar.sqrt() * found.x_0) / (1 - alpha_bar).sqrt()
    torch.testing.assert_close(noise, batch.target[: method.reads], rtol=1e-3, atol=2e-3)
    assert batch.band.tolist() == [9 - int(t) // 100 for t in batch.t]


def test_arms_share_their_time_and_noise_or_are_what_the_policy_drew(method: RegressionMethod):
    found = labelled(method)
    batch, own = supervised(method, found), drawn(method, found.prompts)
    if method.own == "on_the_way":
        assert own is not None
        assert torch.equal(batch.t, own.t)
        assert torch.equal(batch.x_t[LOSE], own.latents)
        assert torch.equal(batch.target[LOSE], own.latents + 50)
    elif method.arms == 2:
        assert torch.equal(batch.target[WIN], batch.target[LOSE])
        loser = found.x_0[LOSE] if own is None else own.latents
        alpha_bar = SCHEDULE.alphas_cumprod[batch.t].float()[:, None, None, None]
        wanted = batch.x_t[WIN] + alpha_bar.sqrt() * (loser - found.x_0[WIN])
        torch.testing.assert_close(batch.x_t[LOSE], wanted, rtol=1e-4, atol=1e-4)


def test_times_and_noise_are_addressed_by_row_and_iteration(method: RegressionMethod):
    found = labelled(method)
    batch, again = supervised(method, found), supervised(method, found)
    assert torch.equal(batch.x_t, again.x_t)
    assert torch.equal(batch.t, again.t)
    other = supervised(method, found, Key(4)("regression", 1))
    assert not torch.equal(batch.target[WIN], other.target[WIN])
    assert not torch.equal(batch.target[WIN, 0], batch.target[WIN, 2])  # the same row for the second time
    alone = supervised(method, replace(labelled(method, (3,)), label=torch.ones(1)))
    assert torch.equal(alone.target[WIN, 0], batch.target[WIN, 1])  # in whatever company
