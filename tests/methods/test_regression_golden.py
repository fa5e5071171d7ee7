"""One number a method on labelled pictures, derived in the comment, and float64 oracles written from the papers.

The numbers are of one element and a target of 0: an error is the square of an output.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from raypref.core.regression import Regression
from raypref.methods.diffusion_dpo import DiffusionDPO
from raypref.methods.dro import DRO
from raypref.methods.dspo import DSPO
from raypref.methods.dspo_e import DSPOE
from raypref.methods.dspo_ref import DSPORef
from raypref.methods.dspo_sdxl import DSPOSDXL
from raypref.methods.kto import KTO
from raypref.methods.mapo import MaPO, phi
from raypref.methods.regression import RegressionMethod
from raypref.methods.sft import SFT
from raypref.methods.spin import SPIN


def batch_of(target: Tensor, label: Tensor | None = None) -> Regression:
    count = target.shape[1]
    return Regression(
        prompts=("a",) * count,
        t=torch.zeros(count, dtype=torch.int64),
        band=torch.zeros(count, dtype=torch.int64),
        x_t=torch.zeros_like(target),
        target=target,
        label=torch.ones(count) if label is None else label,
        weight=torch.ones(count),
    )


def loss(method: RegressionMethod, policy: list[float], reference: list[float], weight: float = 1.0) -> float:
    """Of one row, by its arms' outputs, with lambda(t) = `weight`."""
    ours, theirs = (torch.tensor(values).reshape(len(values), 1, 1, 1, 1) for values in (policy, reference))
    batch = replace(batch_of(torch.zeros_like(ours)), weight=torch.tensor([weight]), baseline=torch.zeros(1))
    return method.objective(ours, theirs, batch).per_example.item()


@pytest.mark.parametrize("kind", [DiffusionDPO, SPIN])
def test_diffusion_dpo_and_spin(kind: type[RegressionMethod]):
    # [1e-4 - 4e-4] - [9e-4 - 4e-4] = -8e-4; z = 5000 / 2 * 8e-4 = 2, the half being the authors' code's;
    # ln(1 + e^-2). Without the half z would be 4, and the loss 0.018150.
    assert loss(kind(), [0.01, 0.03], [0.02, 0.02]) == pytest.approx(0.126928, abs=2e-6)
    # winner and loser exchanged: z = -2, and the loss is 2 higher
    assert loss(kind(), [0.03, 0.01], [0.02, 0.02]) == pytest.approx(2.126928, abs=2e-6)
    # at the reference: ln 2, whatever beta
    assert loss(kind(beta=77.0), [0.03, 0.01], [0.03, 0.01]) == pytest.approx(math.log(2), abs=1e-6)


def test_diffusion_dpo_takes_the_mean_over_elements():
    # A thousand elements with the same outputs: sums would give z = 2000.
    wide = [torch.tensor(arms).reshape(2, 1, 1, 1, 1).expand(2, 1, 10, 10, 10) for arms in ([0.01, 0.03], [0.02, 0.02])]
    found = DiffusionDPO().loss(*wide, batch_of(torch.zeros(2, 1, 10, 10, 10))).per_example
    assert float(found) == pytest.approx(0.126928, abs=2e-6)


def test_sft():
    assert loss(SFT(), [0.3], [0.7]) == pytest.approx(0.09, abs=1e-7)


def test_dspo():
    # beta = 1/2: u = 1/4 * 0.08 = 0.02; 1 - sigmoid(0.02) = 0.495; residual 0.1 - 0.2475 (0.1 - 0.2) = 0.12475
    assert loss(DSPO(beta=0.5), [0.1, 0.3], [0.2, 0.2]) == pytest.approx(0.12475**2, abs=1e-7)
    # margin_scale = 1, the paper's: u = 0.04; 1 - sigmoid(0.04) = 0.490001; residual 0.1245
    assert loss(DSPO(beta=0.5, margin_scale=1.0), [0.1, 0.3], [0.2, 0.2]) == pytest.approx(0.1245**2, abs=1e-7)


def test_dspo_at_its_published_beta_is_sft_on_the_winner():
    # u = 4e-5, the sigmoid 1/2: residual 0.1 + 0.0005 * 0.1 = 0.10005, a thousandth more than SFT's 0.01
    assert loss(DSPO(), [0.1, 0.3], [0.2, 0.2]) == pytest.approx(0.10005**2, rel=1e-6)
    assert loss(DSPO(), [0.1, 0.3], [0.2, 0.2]) == pytest.approx(loss(SFT(), [0.1], [0.2]), rel=2e-3)
    # and the loser hardly counts: one that is met ten times as badly moves the loss by less than a millionth
    assert loss(DSPO(), [0.1, 3.0], [0.2, 0.2]) == pytest.approx(loss(DSPO(), [0.1, 0.3], [0.2, 0.2]), rel=3e-6)


def test_the_gradient_of_dspo_points_where_that_of_sft_does():
    generator = torch.Generator().manual_seed(0)
    policy, reference, target = (torch.randn(2, 6, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    policy = (reference + 0.1 * policy).requires_grad_()
    batch = batch_of(target)
    ours = torch.autograd.grad(DSPO().loss(policy, reference, batch).per_example.sum(), policy)[0]
    single = replace(batch, x_t=batch.x_t[:1], target=target[:1])
    theirs = torch.autograd.grad(SFT().loss(policy[:1], None, single).per_example.sum(), policy)[0]
    assert float(torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0)) > 0.999999


def test_the_sigmoid_of_dspo_has_a_gradient_unless_it_is_detached():
    # beta = 1/2, a doubt of 0.495 and a residual of 0.12475, as above. Detached: 2 * 0.12475 * (1 - 0.2475). Else the
    # doubt moves by 0.495 * 0.505 * 1/2 of the winner's e, whose slope is 0.2, and the residual by 1/2 * 0.1 of that.
    for detached, slope in ((True, 0.1877488), (False, 0.1877488 + 2 * 0.12475 * 0.05 * 0.249975 * 0.25 * 0.2)):
        policy = torch.tensor([0.1, 0.3]).reshape(2, 1, 1, 1, 1).requires_grad_()
        found = DSPO(beta=0.5, detach_sigmoid=detached).loss(
            policy, torch.full_like(policy, 0.2), batch_of(torch.zeros(2, 1, 1, 1, 1))
        )
        (slopes,) = torch.autograd.grad(found.per_example.sum(), policy)
        assert slopes[0].item() == pytest.approx(slope, abs=1e-6)
        assert (slopes[1].item() == 0) is detached


@pytest.mark.parametrize(
    ("method", "policy", "reference", "expected"),
    [
        # lambda(t) = 2 inside: ln(1 + e^-4); sigmoid(-2 * 1000 * 3e-4); 0.001 - 2 * (-1e-4)
        (DiffusionDPO(), [0.01, 0.03], [0.02, 0.02], 0.018150),
        (SPIN(), [0.01, 0.03], [0.02, 0.02], 0.018150),
        (KTO(), [0.01], [0.02], 0.354344),
        (DRO(), [0.01, 0.02], [0.02, 0.03], 0.001 + 2 * 2e-4),
        # outside: twice the squared error
        (SFT(), [0.3], [0.7], 0.18),
        (DSPO(beta=0.5), [0.1, 0.3], [0.2, 0.2], 2 * 0.12475**2),
        (DSPOE(), [0.1], [0.2], 2 * 0.1001**2),
        (DSPORef(), [0.1, 0.3], [0.2, 0.2], 2 * 0.24999),
        (DSPOSDXL(beta=100.0), [0.1, 0.3], [0.2, 0.2], 2 * 3.235037e-4),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_where_the_weight_of_the_time_stands(method, policy, reference, expected):
    assert loss(method, policy, reference, weight=2.0) == pytest.approx(expected, abs=2e-6)


def test_dspo_e():
    # residual 0.1 - 0.001 (0.1 - 0.2) = 0.1001
    assert loss(DSPOE(), [0.1], [0.2]) == pytest.approx(0.1001**2, abs=1e-8)
    with pytest.raises(ValueError, match=r"beta = 1\.0: from 1 on, the loss rewards being wrong"):
        DSPOE(beta=1.0)


def test_dspo_sdxl_takes_eq_47_near_the_reference_and_eq_46_far_from_it():
    # beta = 100: u = 50 * 0.08 = 4; 1 - sigmoid(4) = 0.01798621, squared 3.235037e-4; |0.1 - 0.2|^2 = 0.01 < 0.1
    assert loss(DSPOSDXL(beta=100.0), [0.1, 0.3], [0.2, 0.2]) == pytest.approx(3.235037e-4, rel=1e-5)
    assert loss(DSPOSDXL(beta=100.0, switch=0.005), [0.1, 0.3], [0.2, 0.2]) == pytest.approx(3.235037e-6, rel=1e-5)


def test_dspo_ref():
    # u = 4e-5: (1/2 - 1e-5)^2, and a hundredth of it where eq. 46 is asked for everywhere
    assert loss(DSPORef(), [0.1, 0.3], [0.2, 0.2]) == pytest.approx(0.24999, abs=1e-6)
    assert loss(DSPORef(switch=0.0), [0.1, 0.3], [0.2, 0.2]) == pytest.approx(0.0024999, abs=1e-8)


def test_eq_46_alone_has_no_gradient_at_the_reference():
    policy = torch.ones(2, 1, 1, 1, 1, requires_grad=True)
    for switch, moves in ((0.0, False), (0.1, True)):
        found = DSPORef(switch=switch).loss(policy, policy.detach(), batch_of(torch.zeros(2, 1, 1, 1, 1)))
        (slope,) = torch.autograd.grad(found.per_example.sum(), policy)
        assert (float(slope.abs().max()) > 0) == moves


def kto(policy: list[float], liked: list[float], baseline: float | None, method: KTO) -> list[float]:
    ours, theirs = torch.tensor(policy).reshape(1, -1, 1, 1, 1), torch.full((1, len(policy), 1, 1, 1), 0.02)
    batch = batch_of(torch.zeros_like(ours), torch.tensor(liked))
    usual = None if baseline is None else torch.full((len(policy),), baseline)
    return method.objective(ours, theirs, replace(batch, baseline=usual)).per_example.tolist()


def test_kto():
    # g = 4e-4 - e = 3e-4 and -5e-4, whose mean is below 0: K = 0. sigmoid(-0.3), and of the disliked sigmoid(-0.5)
    assert kto([0.01, 0.03], [1.0, 0.0], None, KTO()) == pytest.approx([0.425557, 0.377541], abs=2e-6)
    # of a batch that gains 1e-4 in the mean: sigmoid(-(0.3 - 0.1)), sigmoid(-(0.5 + 0.1))
    assert kto([0.01, 0.03], [1.0, 0.0], 1e-4, KTO()) == pytest.approx([0.450166, 0.354344], abs=2e-6)
    assert kto([0.01, 0.03], [1.0, 0.0], -1e-4, KTO()) == pytest.approx([0.425557, 0.377541], abs=2e-6)
    weighed = KTO(desirable_weight=2.0, undesirable_weight=0.5)
    assert kto([0.01, 0.03], [1.0, 0.0], None, weighed) == pytest.approx([0.851115, 0.188770], abs=2e-6)


def test_kto_takes_its_baseline_for_a_constant():
    # A single liked picture that the policy explains better: g - K = 0 in value, but only g has a gradient.
    policy = torch.full((1, 1, 1, 1, 1), 0.01, requires_grad=True)
    found = KTO().loss(policy, torch.full((1, 1, 1, 1, 1), 0.02), batch_of(torch.zeros(1, 1, 1, 1, 1)))
    assert found.per_example.tolist() == [0.5]
    (slope,) = torch.autograd.grad(found.per_example.sum(), policy)
    assert float(slope) == pytest.approx(0.25 * 1000 * 2 * 0.01, rel=1e-5)  # -sigmoid'(0) * beta * dg


def test_mapo():
    # phi(0.02) = 1 - 0.01 + 0.02^2 / 12 = 0.990033, phi(0.045) = 0.977669; 100 times the difference: 1.236463;
    # 0.04 + 0.1 ln(1 + e^-1.236463) = 0.04 + 0.0254959
    assert loss(MaPO(margin_scale=100.0), [0.2, 0.3], [0.0, 0.0]) == pytest.approx(0.0654959, abs=2e-6)


def test_mapo_is_finite_at_zero_loss():
    # phi(0) = 1 for both: 0.1 ln 2
    assert loss(MaPO(), [0.0, 0.0], [0.0, 0.0]) == pytest.approx(0.0693147, abs=1e-7)
    policy = torch.zeros(2, 1, 1, 1, 1, requires_grad=True)
    MaPO().loss(policy, None, batch_of(torch.zeros(2, 1, 1, 1, 1))).per_example.sum().backward()
    assert policy.grad is not None
    assert torch.equal(policy.grad, torch.zeros_like(policy))


def test_phi_and_its_slope_keep_their_digits_near_zero():
    x = torch.tensor([0.0, 1e-7, 1e-3, 0.0499, 0.0501, 0.4, 3.0], requires_grad=True)
    found = phi(x)
    (slope,) = torch.autograd.grad(found.sum(), x)
    exact = x.detach().double().numpy()
    for index, value in enumerate(exact):
        series = value < 1e-2
        wanted = 1 - value / 2 + value**2 / 12 if series else value / math.expm1(value)
        tilt = -0.5 + value / 6 if series else 1 / math.expm1(value) - value * math.exp(value) / math.expm1(value) ** 2
        assert float(found[index]) == pytest.approx(wanted, rel=1e-6)
        assert float(slope[index]) == pytest.approx(tilt, rel=1e-5)


def test_dro():
    # gains: 0.04 - 0.01 = 0.03 of the expert, 0.04 - 0.09 = -0.05 of its own: a lead of 0.08, more than m = 0.001
    assert loss(DRO(), [0.1, 0.3], [0.2, 0.2]) == 0.0
    # the other way round: 0.001 + 0.08
    assert loss(DRO(), [0.3, 0.1], [0.2, 0.2]) == pytest.approx(0.081, abs=1e-6)


def test_at_the_weights_that_drew_it_the_own_arm_of_dro_has_no_gradient():
    policy = torch.tensor([0.3, 0.2]).reshape(2, 1, 1, 1, 1).requires_grad_()
    target = torch.tensor([0.0, 0.2]).reshape(2, 1, 1, 1, 1)
    found = DRO().loss(policy, torch.tensor([0.2, 0.5]).reshape(2, 1, 1, 1, 1), batch_of(target))
    # m + [0.09 - 0.04] - [0 - 0.09]
    assert found.per_example.tolist() == pytest.approx([0.141], abs=1e-6)
    (slope,) = torch.autograd.grad(found.per_example.sum(), policy)
    assert slope.flatten().tolist() == pytest.approx([0.6, 0.0], abs=1e-6)


def squared(found: np.ndarray) -> np.ndarray:
    return np.stack([[float(np.sum(row * row)) / row.size for row in arm] for arm in found])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def oracle_dpo(beta: float) -> Callable[..., np.ndarray]:
    def of(policy: np.ndarray, reference: np.ndarray, target: np.ndarray, liked: np.ndarray) -> np.ndarray:
        ours, theirs = squared(policy - target), squared(reference - target)
        inside = -0.5 * beta * ((ours[0] - ours[1]) - (theirs[0] - theirs[1]))
        return -np.log(sigmoid(inside))

    return of


def oracle_dspo(policy: np.ndarray, reference: np.ndarray, target: np.ndarray, liked: np.ndarray) -> np.ndarray:
    ours, theirs = squared(policy - target), squared(reference - target)
    doubt = 1 - sigmoid(-0.5 * 0.3 * ((ours[0] - ours[1]) - (theirs[0] - theirs[1])))
    pull = 0.3 * doubt.reshape(-1, 1, 1, 1)
    return squared(((policy[0] - target[0]) - pull * (policy[0] - reference[0]))[None])[0]


def oracle_without_data(policy: np.ndarray, reference: np.ndarray, target: np.ndarray, liked: np.ndarray) -> np.ndarray:
    ours, theirs = squared(policy - target), squared(reference - target)
    doubt = 1 - sigmoid(-0.5 * 3.0 * ((ours[0] - ours[1]) - (theirs[0] - theirs[1])))
    moved = squared(policy - reference)[0]
    return np.where(moved >= 1.0, doubt**2 * moved, doubt**2)


def oracle_kto(policy: np.ndarray, reference: np.ndarray, target: np.ndarray, liked: np.ndarray) -> np.ndarray:
    found = squared(reference - target)[0] - squared(policy - target)[0]
    usual = max(0.0, float(np.mean(found)))
    return 1 - sigmoid(2.0 * np.where(liked == 1, 1, -1) * (found - usual))


def oracle_mapo(policy: np.ndarray, reference: np.ndarray, target: np.ndarray, liked: np.ndarray) -> np.ndarray:
    ours = squared(policy - target)
    score = (0.5 * ours) / (np.exp(0.5 * ours) - 1)
    return ours[0] - 0.1 * np.log(sigmoid(10.0 * (score[0] - score[1])))


def oracle_dro(policy: np.ndarray, reference: np.ndarray, target: np.ndarray, liked: np.ndarray) -> np.ndarray:
    ours, theirs = squared(policy - target), squared(reference - target)
    return np.maximum(0, 0.001 + (ours[0] - theirs[0]) - (ours[1] - theirs[1]))


ORACLES: dict[str, tuple[RegressionMethod, Callable[..., np.ndarray]]] = {
    "diffusion_dpo": (DiffusionDPO(beta=4.0), oracle_dpo(4.0)),
    "spin": (SPIN(beta=4.0), oracle_dpo(4.0)),
    "dspo": (DSPO(beta=0.3), oracle_dspo),
    "dspo_sdxl": (DSPOSDXL(beta=3.0, switch=1.0), oracle_without_data),
    "dspo_ref": (DSPORef(beta=3.0, switch=1.0), oracle_without_data),
    "dspo_e": (DSPOE(beta=0.3), lambda ours, theirs, target, _: squared((ours - target) - 0.3 * (ours - theirs))[0]),
    "sft": (SFT(), lambda ours, theirs, target, _: squared(ours - target)[0]),
    "kto": (KTO(beta=2.0), oracle_kto),
    "mapo": (MaPO(margin_scale=10.0), oracle_mapo),
    "dro": (DRO(), oracle_dro),
}


@pytest.mark.parametrize("name", ORACLES)
def test_losses_are_those_of_a_float64_oracle(name: str):
    method, oracle = ORACLES[name]
    generator = torch.Generator().manual_seed(1)
    shape = (method.arms, 7, 4, 5, 5)
    policy, reference, target = (torch.randn(shape, generator=generator) for _ in range(3))
    liked = (torch.arange(7) % 2).float() if method.coupled else torch.ones(7)
    found = method.loss(policy, reference, batch_of(target, liked)).per_example
    wanted = oracle(*(tensor.double().numpy() for tensor in (policy, reference, target, liked)))
    torch.testing.assert_close(found.double(), torch.from_numpy(wanted), rtol=1e-6, atol=1e-6)
    if name in ("dspo_sdxl", "dspo_ref"):
        moved = (policy - reference)[0].square().mean((1, 2, 3))
        assert bool((moved >= 1.0).any())
    if name == "dro":
        assert 0 < int((found == 0).sum()) < 7
