"""One number a method, with the defaults of its paper, derived in the comment.

All use one dimension, std = 1/2 and a shared mean for both arms: rho(x) = (x - (m + m') / 2) (m - m') / std^2.
"""

import warnings
from dataclasses import replace

import pytest
import torch

from raypref.core.process import Gaussian
from raypref.core.search import Guidance, Search
from raypref.core.types import Rollout, Transitions
from raypref.methods.base import Method
from raypref.methods.d3po import D3PO
from raypref.methods.d3po_delta import D3PODelta
from raypref.methods.ddpo import DDPO
from raypref.methods.rdpo import RDPO
from raypref.methods.rdpo_kl import RDPOKL
from raypref.methods.rdpo_mild import RDPOMild
from raypref.methods.rdpo_paper import RDPOPaper
from raypref.methods.rdpo_star import RDPOStar
from raypref.methods.spo import SPO
from raypref.methods.tailorpo import TailorPO
from raypref.methods.tailorpo_g import TailorPOG

ONE = torch.ones(1, 1, 1, 1, 1)
STD = torch.tensor([0.5])


def loss(method: Method, policy: float, reference: float, win: float, lose: float) -> float:
    x_s = torch.tensor([win, lose]).reshape(2, 1, 1, 1, 1)
    batch = Transitions(("a",), torch.tensor([0]), 0 * ONE, x_s, torch.tensor([[1.0], [0.0]]), torch.ones(1))
    return float(method.objective(Gaussian(policy * ONE, STD), Gaussian(reference * ONE, STD), batch).per_example)


def test_tailorpo():
    # beta = 0.1; rho_w = 0.8 * 0.2 / 0.25 = 0.64, rho_l = -0.7 * 0.2 / 0.25 = -0.56; z = 0.12; ln(1 + e^-0.12)
    assert loss(TailorPO(), 0.3, 0.1, 1.0, -0.5) == pytest.approx(0.634945, abs=2e-6)
    # winner and loser swapped: z = -0.12, and the loss is 0.12 higher.
    assert loss(TailorPO(), 0.3, 0.1, -0.5, 1.0) == pytest.approx(0.754945, abs=2e-6)


def test_d3po_clamps_both_ratios_to_ten_percent():
    # z = 0.1 (ln 1.1 - ln 0.9) = 0.0200671; ln 2 - z / 2 + z^2 / 8
    assert loss(D3PO(), 0.3, 0.1, 1.0, -0.5) == pytest.approx(0.683164, abs=2e-6)
    # swapped: z changes its sign
    assert loss(D3PO(), 0.3, 0.1, -0.5, 1.0) == pytest.approx(0.703231, abs=2e-6)


def test_rdpo_is_tailorpo_where_the_loser_fell():
    assert loss(RDPO(), 0.3, 0.1, 1.0, -0.5) == pytest.approx(0.634945, abs=2e-6)


def test_rdpo_punishes_a_loser_that_rose():
    # m = 0.101, m' = 0.1, midpoint 0.1005: rho_w = (0.6005 - 0.1005) 0.001 / 0.25 = 0.002,
    # rho_l = (1.3505 - 0.1005) 0.001 / 0.25 = 0.005; z = 0.1 (0.002 - 0.005) - 100 * 0.005 = -0.5003;
    # ln(1 + e^0.5003) = 0.5003 + ln(1 + e^-0.5003) = 0.5003 + 0.473964 = 0.974264
    assert loss(RDPO(), 0.101, 0.1, 0.6005, 1.3505) == pytest.approx(0.974264, abs=2e-5)


def test_rdpo_mild_punishes_it_two_hundred_times_less():
    # z = -0.0003 - 0.5 * 0.005 = -0.0028; ln 2 + 0.0014 + 0.0028^2 / 8 = 0.694548
    assert loss(RDPOMild(), 0.101, 0.1, 0.6005, 1.3505) == pytest.approx(0.694548, abs=2e-6)


def test_rdpo_paper_rewards_it_and_warns():
    with pytest.warns(UserWarning, match="psi_sign = 'printed' .* rewards a rising loser; 'intended' has the sign"):
        method = RDPOPaper()
    # z = -0.0003 + 0.5 = 0.4997; ln(1 + e^-0.4997) = 0.474190
    assert loss(method, 0.101, 0.1, 0.6005, 1.3505) == pytest.approx(0.474190, abs=2e-5)
    assert loss(RDPO(psi_sign="printed"), 0.101, 0.1, 0.6005, 1.3505) == pytest.approx(0.474190, abs=2e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RDPOPaper(psi_sign="intended")


@pytest.mark.parametrize("kind", [RDPOStar, D3PODelta, TailorPOG])
def test_methods_without_clamp_and_penalty_have_the_loss_of_tailorpo(kind: type[Method]):
    assert loss(kind(), 0.3, 0.1, 1.0, -0.5) == pytest.approx(0.634945, abs=2e-6)
    # rho_l > 0: no penalty shows. z = 0.1 (0.002 - 0.005) = -0.0003; ln 2 + 0.00015
    assert loss(kind(), 0.101, 0.1, 0.6005, 1.3505) == pytest.approx(0.693297, abs=1e-6)


def test_rdpo_kl_adds_a_hundredth_of_the_divergence():
    # KL = 0.2^2 / (2 * 0.25) = 0.08
    assert loss(RDPOKL(), 0.3, 0.1, 1.0, -0.5) == pytest.approx(0.634945 + 0.0008, abs=2e-6)


def test_spo_pulls_a_hundred_times_as_hard_as_d3po():
    # z = 10 (ln 1.1 - ln 0.9) = 2.006707; ln(1 + e^-2.006707) = ln 1.134430 = 0.126130
    assert loss(SPO(), 0.3, 0.1, 1.0, -0.5) == pytest.approx(0.126130, abs=2e-6)


def test_ddpo_stops_a_ten_thousandth_away_from_the_policy_that_drew_the_batch():
    # log ratio = (1 - 0.2) 0.2 / 0.25 = 0.64, clipped to 1.0001 for A = 2 and kept, 1.896481, for A = -2.
    for advantage, wanted in ((2.0, -2.0002), (-2.0, 3.792962)):
        credit = torch.tensor([[advantage]])
        batch = Transitions(("a",), torch.tensor([0]), 0 * ONE, ONE, credit, torch.ones(1), mean=0.1 * ONE)
        found = DDPO().objective(Gaussian(0.3 * ONE, STD), Gaussian(0 * ONE, STD), batch)
        assert float(found.per_example) == pytest.approx(wanted, abs=2e-6)


def test_ddpo_standardises_and_clamps_at_five():
    # One of 50 differs: (1 - 1 / 50) / sqrt(1 / 50 * 49 / 50) = 7
    final = torch.zeros(1, 50, 1)
    final[0, 0] = 1.0
    latents, scores = torch.zeros(1, 50, 1, 1, 1, 1), torch.zeros(1, 50, 1, 1)
    rollout = Rollout(("a",), torch.tensor([0]), latents, latents, scores, scores, scores, final, latents, 0, "")
    assert float(DDPO().supervise(rollout).credit.max()) == 5.0
    assert float(DDPO(adv_clip_max=9.0).supervise(rollout).credit.max()) == pytest.approx(7.0, rel=1e-4)


@pytest.mark.parametrize(
    "search", [Search(shape="chain", step_reward="final"), Search(shape="tree", keep_mean=True)], ids=["mean", "chain"]
)
def test_ddpo_refuses_searches_that_it_cannot_learn_from(search: Search):
    with pytest.raises(ValueError, match="ddpo needs shape = 'chain', step_reward = 'final' and keep_mean = true"):
        DDPO(search=search)


def test_rdpo_star_and_tailorpo_train_on_the_same_pairs():
    generator = torch.Generator().manual_seed(0)
    value, parent = torch.randn(3, 2, 5, 1, generator=generator), torch.randn(3, 1, 5, 1, generator=generator)
    x_s = torch.randn(3, 2, 5, 1, 1, 1, generator=generator)
    steps = torch.tensor(RDPOStar().search.steps)
    nothing = torch.full_like(value, torch.nan)
    rollout = Rollout(("a", "b", "c"), steps, torch.zeros(3, 1, 5, 1, 1, 1), x_s, value, parent, nothing,
                      nothing[:, :, 0], None, 0, "")  # fmt: skip
    one, two = RDPOStar().supervise(rollout), TailorPO().supervise(rollout)
    assert len(one) == 15
    assert torch.equal(one.x_s, two.x_s)
    assert torch.equal(one.steps, two.steps)


def spo_pairs(gap: float, method: SPO) -> int:
    count = len(method.search.recorded())
    value = torch.tensor([0.0, 0.1, 0.2, gap])[None, :, None, None].expand(1, 4, count, 1)
    nothing = torch.full_like(value, torch.nan)
    latents = torch.zeros(1, 4, count, 1, 1, 1)
    rollout = Rollout(("a",), torch.tensor(method.search.recorded()), latents[:, :1], latents, value, nothing[:, :1],
                      nothing, nothing[:, :, 0], None, 0, "")  # fmt: skip
    return len(method.supervise(rollout))


def test_spo_keeps_pairs_whose_scores_are_more_than_0_619_apart():
    assert (spo_pairs(0.6189, SPO()), spo_pairs(0.6192, SPO())) == (0, 16)
    assert (spo_pairs(0.8471, SPO(threshold=0.4)), spo_pairs(0.8474, SPO(threshold=0.4))) == (0, 16)


def test_defaults_are_those_of_the_papers():
    assert RDPO() == RDPO(
        search=Search("tree", 2, (0, 4, 8, 12, 16), "delta_parent", "best"), beta=0.1, psi_lambda=100.0,
        psi_sign="intended", ratio_clip_eps=0.0, logp_reduce="mean",
    )  # fmt: skip
    assert TailorPO() == TailorPO(
        search=Search("tree", 2, (0, 4, 8, 12, 16), "q", "best"), beta=0.1, psi_lambda=0.0, ratio_clip_eps=0.0
    )
    every = tuple(range(20))
    assert D3PO() == D3PO(
        search=Search("chain", 2, every, "final", "best", same_start=True), beta=0.1, psi_lambda=0.0,
        ratio_clip_eps=0.1,
    )  # fmt: skip
    assert D3PODelta() == D3PODelta(
        search=Search("chain", 2, every, "delta_cross", same_start=True), beta=0.1, ratio_clip_eps=0.0
    )
    assert SPO() == SPO(
        search=Search("tree", 4, every[4:], "q", "random"), beta=10.0, threshold=0.3, ratio_clip_eps=0.1
    )
    assert RDPOStar() == RDPOStar(search=RDPO().search, beta=0.1, psi_lambda=0.0, kl_coef=0.0)
    assert RDPOKL() == RDPOKL(search=RDPO().search, beta=0.1, psi_lambda=0.0, kl_coef=0.01)
    assert RDPOMild() == RDPOMild(search=RDPO().search, beta=0.1, psi_lambda=0.5, psi_sign="intended")
    assert TailorPOG() == TailorPOG(
        search=replace(TailorPO().search, guidance=Guidance("reward_ascent", 0.1, normalize=True)), beta=0.1
    )
    assert DDPO() == DDPO(
        search=Search("chain", 4, every, "final", same_start=False, keep_mean=True), clip_range=1e-4, adv_clip_max=5.0
    )


def test_with_psi_off_rdpo_is_tailorpo():
    assert loss(replace(RDPO(), psi_lambda=0.0), -0.2, 0.4, 0.3, -0.8) == loss(TailorPO(), -0.2, 0.4, 0.3, -0.8)
