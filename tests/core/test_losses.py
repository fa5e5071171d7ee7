"""The step-wise DPO loss against an oracle of plain numbers: loops over pairs and dimensions, math.log, no tensors."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raypref.core.losses import Psi, stepwise_dpo
from raypref.core.process import Gaussian
from raypref.core.types import Loss, Transitions

B, SHAPE = 5, (2, 2, 3)
DIMS = math.prod(SHAPE)
OFF = Psi(weight=0.0)


def make(
    states: int = 1, drift: float = 0.4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Gaussian, Gaussian, Transitions]:
    """(policy, reference, batch); the policy's mean takes gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, *SHAPE, generator=generator, dtype=dtype)

    std = torch.tensor([0.2, 0.5, 0.7, 1.0, 1.6], dtype=dtype)
    reference = draw(states, B)
    policy = (reference + drift * std[:, None, None, None] * draw(states, B)).requires_grad_(True)
    x_s = reference + std[:, None, None, None] * draw(2, B)
    batch = Transitions(
        prompts=("a",) * B,
        steps=torch.arange(B),
        x_t=torch.zeros(states, B, *SHAPE, dtype=dtype),
        x_s=x_s,
        credit=torch.stack([torch.ones(B), torch.zeros(B)]),
        weight=torch.ones(B, dtype=dtype),
    )
    return Gaussian(policy, std), Gaussian(reference, std), batch


def swapped(batch: Transitions) -> Transitions:
    return replace(batch, x_t=batch.x_t.flip(0), x_s=batch.x_s.flip(0))


def flipped(gaussian: Gaussian) -> Gaussian:
    return Gaussian(gaussian.mean.flip(0), gaussian.std)


def log_density(x: list[float], mean: list[float], std: float) -> float:
    total = 0.0
    for value, center in zip(x, mean, strict=True):
        total += -((value - center) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    return total


def oracle_rho(policy: Gaussian, reference: Gaussian, batch: Transitions, reduce: str) -> list[tuple[float, float]]:
    """(rho of the winner, rho of the loser) for each pair."""
    states = policy.mean.shape[0]
    rows = []
    for b in range(len(batch.prompts)):
        rho = []
        for arm in (0, 1):
            parent = arm if states == 2 else 0
            x = batch.x_s[arm, b].flatten().tolist()
            std = float(policy.std[b])
            ours = log_density(x, policy.mean[parent, b].flatten().tolist(), std)
            theirs = log_density(x, reference.mean[parent, b].flatten().tolist(), std)
            rho.append((ours - theirs) / (len(x) if reduce == "mean" else 1))
        rows.append((rho[0], rho[1]))
    return rows


def oracle_kl_lose(policy: Gaussian, reference: Gaussian, b: int, reduce: str) -> float:
    """KL(policy || reference) at the loser's parent, from its definition: log-ratio averaged by quadrature."""
    parent = policy.mean.shape[0] - 1
    total = 0.0
    for ours, theirs in zip(
        policy.mean.detach()[parent, b].flatten(), reference.mean[parent, b].flatten(), strict=True
    ):
        mean, other, std, steps = float(ours), float(theirs), float(policy.std[b]), 2001
        width = 20 * std / (steps - 1)
        for k in range(steps):
            x = mean - 10 * std + k * width
            log_ours = log_density([x], [mean], std)
            total += width * math.exp(log_ours) * (log_ours - log_density([x], [other], std))
    return total / (DIMS if reduce == "mean" else 1)


def oracle_losses(
    policy: Gaussian,
    reference: Gaussian,
    batch: Transitions,
    beta: float,
    psi: Psi = OFF,
    ratio_clip_eps: float = 0.0,
    logp_reduce: str = "mean",
) -> list[float]:
    losses = []
    for b, (rho_w, rho_l) in enumerate(oracle_rho(policy, reference, batch, logp_reduce)):
        # Psi = min(0, log pi_ref(l) / pi_theta(l)); printed: z - lambda Psi; intended: z + lambda Psi
        center = oracle_kl_lose(policy, reference, b, logp_reduce) if psi.center == "kl" else 0.0
        penalty = min(0.0, center - rho_l) * psi.weight
        if psi.inside_beta:
            penalty *= beta
        ratio_w, ratio_l = math.exp(rho_w), math.exp(rho_l)
        if ratio_clip_eps > 0:
            ratio_w = min(max(ratio_w, 1 - ratio_clip_eps), 1 + ratio_clip_eps)
            ratio_l = min(max(ratio_l, 1 - ratio_clip_eps), 1 + ratio_clip_eps)
        z = beta * (math.log(ratio_w) - math.log(ratio_l))
        z += penalty if psi.sign == "intended" else -penalty
        losses.append(math.log1p(math.exp(-z)))
    return losses


SETTINGS = [
    pytest.param({"beta": 0.1}, id="tailorpo"),
    pytest.param({"beta": 5.0}, id="strong"),
    pytest.param({"beta": 2.0, "ratio_clip_eps": 0.1}, id="d3po"),
    pytest.param({"beta": 0.1, "psi": Psi(100.0)}, id="rdpo"),
    pytest.param({"beta": 2.0, "psi": Psi(1.5, sign="printed")}, id="rdpo printed"),
    pytest.param({"beta": 2.0, "psi": Psi(1.5), "ratio_clip_eps": 0.1}, id="clamped with psi"),
    pytest.param({"beta": 0.01, "psi": Psi(0.3), "logp_reduce": "sum"}, id="sums"),
    pytest.param({"beta": 0.4, "psi": Psi(30.0, inside_beta=True)}, id="psi inside beta"),
    pytest.param({"beta": 2.0, "psi": Psi(5.0, center="kl")}, id="psi around the kl"),
    pytest.param({"beta": 0.05, "psi": Psi(0.2, "printed", True, "kl"), "logp_reduce": "sum"}, id="everything, sums"),
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("states", [1, 2])
def test_losses_agree_with_plain_numbers(settings: dict[str, Any], states: int):
    policy, reference, batch = make(states)
    found = stepwise_dpo(policy, reference, batch, **settings).per_example
    wanted = torch.tensor(oracle_losses(policy, reference, batch, **settings), dtype=torch.float64)
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("states", [1, 2])
def test_float32_losses_agree_with_plain_numbers(states: int):
    policy, reference, batch = make(states, dtype=torch.float32)
    found = stepwise_dpo(policy, reference, batch, beta=2.0, psi=Psi(1.0)).per_example
    wanted = torch.tensor(oracle_losses(policy, reference, batch, beta=2.0, psi=Psi(1.0)))
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_the_oracle_sees_both_sides_of_the_penalty_and_of_the_clamp():
    # Otherwise the agreement above would prove little.
    policy, reference, batch = make()
    rho = oracle_rho(policy, reference, batch, "mean")
    assert {rho_l > 0 for _, rho_l in rho} == {True, False}
    assert {abs(value) > 0.1 for row in rho for value in row} == {True, False}


def one(policy: float, reference: float, std: float, win: float, lose: float, **settings: Any) -> float:
    """The loss of a single pair in one dimension."""
    batch = Transitions(
        ("a",), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, 1, 1, 1),
        torch.tensor([win, lose]).reshape(2, 1, 1, 1, 1), torch.tensor([[1.0], [0.0]]), torch.ones(1),
    )  # fmt: skip
    gaussians = [Gaussian(torch.full((1, 1, 1, 1, 1), mean), torch.tensor([std])) for mean in (policy, reference)]
    return float(stepwise_dpo(*gaussians, batch, **settings).per_example)


def test_golden_dpo():
    # rho_w = (1.0 - 0.2) 0.2 / 0.25 = 0.64, rho_l = (-0.5 - 0.2) 0.2 / 0.25 = -0.56, z = 0.1 (0.64 + 0.56) = 0.12,
    # loss = ln(1 + e^-0.12) = ln 1.886920 = 0.634945. rho_l < 0: Psi is silent under both signs.
    assert one(0.3, 0.1, 0.5, 1.0, -0.5, beta=0.1) == pytest.approx(0.634945, abs=2e-6)
    for sign in ("intended", "printed"):
        found = one(0.3, 0.1, 0.5, 1.0, -0.5, beta=0.1, psi=Psi(100.0, sign))
        assert found == pytest.approx(0.634945, abs=2e-6)


def test_golden_clamp():
    # The same pair: 0.64 -> ln 1.1 = 0.0953102 and -0.56 -> ln 0.9 = -0.1053605, z = 0.0200671,
    # loss = ln 2 - z / 2 + z^2 / 8 = 0.693147 - 0.010034 + 0.000050 = 0.683164.
    assert one(0.3, 0.1, 0.5, 1.0, -0.5, beta=0.1, ratio_clip_eps=0.1) == pytest.approx(0.683164, abs=2e-6)


def test_golden_psi():
    # means -0.1 and 0.1, midpoint 0: rho_w = 1.0 (-0.2) / 0.25 = -0.8, rho_l = -0.5 (-0.2) / 0.25 = 0.4, delta = -0.12.
    # lambda = 0.5: penalty 0.2. intended z = -0.32, loss = ln(1 + e^0.32) = ln 2.377128 = 0.865893;
    # printed z = 0.08, loss = ln(1 + e^-0.08) = ln 1.923116 = 0.653947.
    assert one(-0.1, 0.1, 0.5, 1.0, -0.5, beta=0.1, psi=Psi(0.5)) == pytest.approx(0.865893, abs=2e-6)
    assert one(-0.1, 0.1, 0.5, 1.0, -0.5, beta=0.1, psi=Psi(0.5, "printed")) == pytest.approx(0.653947, abs=2e-6)


def test_golden_psi_inside_beta():
    # The same pair, with penalty beta lambda rho_l = 0.1 * 0.5 * 0.4 = 0.02: z = -0.14, loss = ln(1 + e^0.14) =
    # ln 2.150274 = 0.765595.
    found = one(-0.1, 0.1, 0.5, 1.0, -0.5, beta=0.1, psi=Psi(0.5, inside_beta=True))
    assert found == pytest.approx(0.765595, abs=2e-6)


def test_golden_psi_around_the_kl():
    # The same pair. KL = (-0.2)^2 / (2 * 0.25) = 0.08, so the excess is 0.4 - 0.08 = 0.32 and the penalty 0.16:
    # z = -0.28, loss = ln(1 + e^0.28) = ln 2.323130 = 0.842915.
    found = one(-0.1, 0.1, 0.5, 1.0, -0.5, beta=0.1, psi=Psi(0.5, center="kl"))
    assert found == pytest.approx(0.842915, abs=2e-6)


def test_golden_sum():
    # As "golden dpo" with both children in two equal dimensions: the mean is unchanged, the sum doubles z to 0.24:
    # ln(1 + e^-0.24) = ln 1.786628 = 0.580330.
    policy, reference = (Gaussian(torch.full((1, 1, 1, 1, 2), mean), torch.tensor([0.5])) for mean in (0.3, 0.1))
    x_s = torch.tensor([1.0, -0.5]).reshape(2, 1, 1, 1, 1).expand(2, 1, 1, 1, 2)
    batch = Transitions(("a",), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, 1, 1, 2), x_s,
                        torch.tensor([[1.0], [0.0]]), torch.ones(1))  # fmt: skip
    mean = stepwise_dpo(policy, reference, batch, beta=0.1, logp_reduce="mean").per_example
    total = stepwise_dpo(policy, reference, batch, beta=0.1, logp_reduce="sum").per_example
    assert float(mean) == pytest.approx(0.634945, abs=2e-6)
    assert float(total) == pytest.approx(0.580330, abs=2e-6)


def test_a_beta_for_sums_is_the_beta_for_means_over_the_dimensions():
    policy, reference, batch = make()
    mean = stepwise_dpo(policy, reference, batch, beta=0.7, psi=Psi(2.0), logp_reduce="mean")
    total = stepwise_dpo(policy, reference, batch, beta=0.7 / DIMS, psi=Psi(2.0 / DIMS), logp_reduce="sum")
    torch.testing.assert_close(mean.per_example, total.per_example, rtol=1e-12, atol=0)


def grad(loss: Loss, policy: Gaussian) -> Tensor:
    return torch.autograd.grad(loss.per_example.sum(), policy.mean, retain_graph=True)[0]


def penalties(rho: list[float], psi: Psi, kl: float = 0.0, beta: float = 0.1) -> list[float]:
    return psi.penalty(torch.tensor(rho), torch.full((len(rho),), kl), beta).tolist()


def test_intended_psi_raises_and_printed_psi_lowers_the_loss_as_the_loser_rises():
    rho = [0.0, 1e-3, 0.1, 1.0]
    assert penalties(rho, Psi(2.0, "intended")) == pytest.approx([0.0, 2e-3, 0.2, 2.0])
    assert penalties(rho, Psi(2.0, "printed")) == pytest.approx([0.0, -2e-3, -0.2, -2.0])


def test_psi_inside_beta_is_a_tenth_where_beta_is_a_tenth():
    assert penalties([0.5], Psi(2.0), beta=0.1) == pytest.approx([1.0])
    assert penalties([0.5], Psi(2.0, inside_beta=True), beta=0.1) == pytest.approx([0.1])


def test_psi_around_the_kl_lets_pass_what_drift_alone_shows():
    assert penalties([0.2, 0.3, 0.5], Psi(2.0, center="kl"), kl=0.3) == pytest.approx([0.0, 0.0, 0.4])
    assert penalties([0.2, 0.3, 0.5], Psi(2.0, center="none"), kl=0.3) == pytest.approx([0.4, 0.6, 1.0])


def test_psi_subtracts_the_kl_of_the_losers_own_parent():
    # Drawn from the policy itself, rho is KL on average, to either side of it; KLs of the two parents differ.
    policy, reference, batch = make(states=2, drift=1.0)
    own = replace(batch, x_s=policy.mean.detach() + batch.x_s - reference.mean)
    rho = oracle_rho(policy, reference, own, "mean")
    kl = [oracle_kl_lose(policy, reference, b, "mean") for b in range(B)]
    assert {rho[b][1] > kl[b] for b in range(B)} == {True, False}
    psi = Psi(5.0, center="kl")
    found = stepwise_dpo(policy, reference, own, beta=2.0, psi=psi).per_example.tolist()
    assert found == pytest.approx(oracle_losses(policy, reference, own, beta=2.0, psi=psi), rel=1e-6)


@pytest.mark.parametrize("sign", ["intended", "printed"])
def test_psi_is_silent_on_losers_that_fell(sign: str):
    rho = torch.tensor([-1.0, -1e-3], requires_grad=True)
    penalty = Psi(100.0, sign).penalty(rho, torch.zeros(2), 0.1)
    assert penalty.tolist() == [0.0, 0.0]
    assert torch.autograd.grad(penalty.sum(), rho)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("center", ["none", "kl"])
@pytest.mark.parametrize("sign", ["intended", "printed"])
def test_psi_has_no_gradient_at_the_tie_of_the_first_update(sign: str, center: str):
    psi = Psi(100.0, sign, center=center)
    rho = torch.zeros(3, requires_grad=True)
    assert torch.autograd.grad(psi.penalty(rho, torch.zeros(3), 0.1).sum(), rho)[0].tolist() == [0.0] * 3
    policy, reference, batch = make(drift=0.0)
    plain = grad(stepwise_dpo(policy, reference, batch, beta=0.1), policy)
    with_psi = grad(stepwise_dpo(policy, reference, batch, beta=0.1, psi=psi), policy)
    assert plain.abs().max() > 0
    assert torch.equal(plain, with_psi)


def test_the_kl_that_psi_subtracts_pulls_at_nothing():
    # One dimension, rho_l = 0.4 and KL = 0.08 as in "golden psi around the kl". rho_l alone has the slope (x_l - m) /
    # std^2 = -1.6 in m; an attached KL would add -(m - m') / std^2 = 0.8. dL/dm = sigmoid(-z) lambda (-1.6),
    # z = -lambda 0.32.
    policy, reference, batch = single(-0.1)
    found = stepwise_dpo(policy, reference, batch, beta=1e-12, psi=Psi(0.5, center="kl"))
    assert float(grad(found, policy)) == pytest.approx(0.5 * -1.6 / (1 + math.exp(-0.16)), rel=1e-9)


def single(policy: float) -> tuple[Gaussian, Gaussian, Transitions]:
    """One pair in one dimension: std 0.5, reference 0.1, winner at 1 and loser at -0.5."""
    mean = torch.full((1, 1, 1, 1, 1), policy, dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.5], dtype=torch.float64)
    x_s = torch.tensor([1.0, -0.5], dtype=torch.float64).reshape(2, 1, 1, 1, 1)
    batch = Transitions(("a",), torch.zeros(1, dtype=torch.int64), torch.zeros_like(x_s[:1]), x_s,
                        torch.tensor([[1.0], [0.0]]), torch.ones(1, dtype=torch.float64))  # fmt: skip
    return Gaussian(mean, std), Gaussian(torch.full_like(mean.detach(), 0.1), std), batch


@pytest.mark.parametrize(("sign", "direction"), [("intended", 1), ("printed", -1)])
def test_the_gradient_of_psi_moves_the_losers_likelihood_as_its_sign_says(sign: str, direction: int):
    # One dimension, rho_l = +0.4 as in "golden psi". rho_l = (x_l - (m + m') / 2) (m - m') / std^2, so
    # d rho_l / d m = (x_l - m) / std^2 = (-0.5 + 0.1) / 0.25 = -1.6. The penalty's part of dL/dm is
    # sigmoid(-z) lambda d rho_l / d m (intended) or its negative (printed).
    policy, reference, batch = single(-0.1)
    found = stepwise_dpo(policy, reference, batch, beta=1e-9, psi=Psi(0.5, sign))
    z = -direction * 0.5 * 0.4
    assert float(grad(found, policy)) == pytest.approx(direction * 0.5 * -1.6 / (1 + math.exp(z)), rel=1e-6)


def test_outside_the_clamp_dpo_is_silent_and_psi_is_not():
    policy, reference, batch = make(drift=8.0)  # every ratio is far outside [0.9, 1.1]
    raised = torch.lerp(reference.mean, policy.mean.detach(), 0.9)[0]
    batch.x_s[1, [1, 3]] = raised[[1, 3]]  # two losers that the policy has raised
    rho = oracle_rho(policy, reference, batch, "mean")
    assert all(abs(value) > 0.2 for row in rho for value in row)
    clamped = stepwise_dpo(policy, reference, batch, beta=0.1, ratio_clip_eps=0.1)
    assert torch.count_nonzero(grad(clamped, policy)) == 0
    assert clamped.metrics["zero_gradient"].tolist() == [1.0] * B
    with_psi = grad(stepwise_dpo(policy, reference, batch, beta=0.1, ratio_clip_eps=0.1, psi=Psi(0.1)), policy)
    rising = [rho_l > 0 for _, rho_l in rho]
    assert rising == [False, True, False, True, False]
    assert [bool(row.abs().sum() > 0) for row in with_psi[0]] == rising


def test_a_single_clamped_arm_leaves_a_gradient():
    # rho_w = 0.8 * 0.2 / 0.25 = 0.64 is beyond ln 1.1; the loser lies at the midpoint of the means, where rho_l = 0.
    policy, reference, batch = single(0.3)
    batch.x_s[1] = 0.2
    found = stepwise_dpo(policy, reference, batch, beta=0.1, ratio_clip_eps=0.1)
    assert found.metrics["zero_gradient"].tolist() == [0.0]
    assert float(grad(found, policy)) != 0


def test_inside_the_clamp_nothing_changes():
    policy, reference, batch = make(drift=1e-3)
    free, clamped = (stepwise_dpo(policy, reference, batch, beta=0.1, ratio_clip_eps=eps) for eps in (0.0, 0.1))
    assert torch.equal(free.per_example, clamped.per_example)
    assert torch.equal(grad(free, policy), grad(clamped, policy))
    assert clamped.metrics["zero_gradient"].tolist() == [0.0] * B


def test_the_clamp_is_asymmetric_in_logs():
    # ln 1.5 = 0.405465 above, ln 0.5 = -0.693147 below: z = 1.098612 = ln 3, loss = ln(4 / 3) = 0.287682.
    found = one(3.0, -3.0, 1.0, 2.0, -2.0, beta=1.0, ratio_clip_eps=0.5)
    assert found == pytest.approx(math.log(4 / 3), abs=1e-6)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_loss_is_log_two_where_policy_and_reference_agree(settings: dict[str, Any]):
    policy, reference, batch = make(drift=0.0)
    found = stepwise_dpo(policy, reference, batch, **settings)
    torch.testing.assert_close(found.per_example.detach(), torch.full((B,), math.log(2), dtype=torch.float64))
    assert torch.equal(found.metrics["margin"], torch.zeros(B, dtype=torch.float64))


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("states", [1, 2])
def test_swapping_the_arms_negates_the_margin(clip: float, states: int):
    policy, reference, batch = make(states)
    there = stepwise_dpo(policy, reference, batch, beta=0.3, ratio_clip_eps=clip).metrics["margin"]
    back = stepwise_dpo(flipped(policy), flipped(reference), swapped(batch), beta=0.3, ratio_clip_eps=clip)
    torch.testing.assert_close(there, -back.metrics["margin"], rtol=1e-12, atol=0)
    assert there.abs().min() > 0


def test_weight_zero_takes_a_pair_out_of_the_gradient_and_leaves_the_others():
    policy, reference, batch = make()
    weight = torch.ones(B, dtype=torch.float64)
    weight[2] = 0
    full = grad(stepwise_dpo(policy, reference, batch, beta=0.3), policy)
    less = grad(stepwise_dpo(policy, reference, replace(batch, weight=weight), beta=0.3), policy)
    assert torch.count_nonzero(less[:, 2]) == 0
    keep = [0, 1, 3, 4]
    assert torch.equal(less[:, keep], full[:, keep])


def test_weight_scales_the_margin_inside_the_sigmoid():
    policy, reference, batch = make()
    heavy = stepwise_dpo(policy, reference, replace(batch, weight=torch.full((B,), 3.0).double()), beta=0.1).per_example
    strong = stepwise_dpo(policy, reference, batch, beta=0.3).per_example
    torch.testing.assert_close(heavy, strong, rtol=1e-12, atol=0)


def test_pairs_do_not_see_each_other():
    policy, reference, batch = make()
    together = stepwise_dpo(policy, reference, batch, beta=0.3, psi=Psi(1.0)).per_example
    for b in range(B):
        row = slice(b, b + 1)
        alone = stepwise_dpo(
            Gaussian(policy.mean[:, row], policy.std[row]),
            Gaussian(reference.mean[:, row], reference.std[row]),
            batch.take(torch.tensor([b])),
            beta=0.3,
            psi=Psi(1.0),
        ).per_example
        torch.testing.assert_close(alone, together[row], rtol=1e-12, atol=0)


def test_metrics_are_the_quantities_that_their_names_say():
    policy, reference, batch = make(states=2)
    metrics = stepwise_dpo(policy, reference, batch, beta=0.3, psi=Psi(1.0)).metrics
    rho = oracle_rho(policy, reference, batch, "mean")
    assert set(metrics) == {"margin", "zero_gradient"}
    assert metrics["margin"].tolist() == pytest.approx(
        [0.3 * (win - lose) - max(0.0, lose) for win, lose in rho], rel=1e-6
    )
    assert metrics["zero_gradient"].tolist() == [0.0] * B
    assert not any(value.requires_grad for value in metrics.values())


def test_no_gradient_flows_into_a_detached_reference_and_the_margin_grows_downhill():
    policy, reference, batch = make(drift=0.0)
    found = stepwise_dpo(policy, reference, batch, beta=0.5)
    slope = grad(found, policy)
    # At policy == reference: dL/dmean = -(1/2) beta (x_w - x_l) / (std^2 d), from d margin / d mean of siblings.
    wanted = -0.25 * (batch.x_s[0] - batch.x_s[1]) / policy.std[:, None, None, None] ** 2 / DIMS
    torch.testing.assert_close(slope[0], wanted, rtol=1e-9, atol=1e-12)
