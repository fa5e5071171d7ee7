"""One number a method, with the defaults of its paper, derived in the comment.

All use one dimension, std = 1/2 and a shared mean for both arms: rho(x) = (x - (m + m') / 2) (m - m') / std^2.
"""

from dataclasses import replace

import pytest
import torch

from raypref.core.process import Gaussian
from raypref.core.search import Search
from raypref.core.types import Transitions
from raypref.methods.base import Method
from raypref.methods.d3po import D3PO
from raypref.methods.rdpo import RDPO
from raypref.methods.tailorpo import TailorPO


def loss(method: Method, policy: float, reference: float, win: float, lose: float) -> float:
    parent = torch.zeros(1, 1, 1, 1, 1)
    x_s = torch.tensor([win, lose]).reshape(2, 1, 1, 1, 1)
    batch = Transitions(("a",), torch.tensor([0]), parent, x_s, torch.tensor([[1.0], [0.0]]), torch.ones(1))
    std = torch.tensor([0.5])
    return float(method.loss(Gaussian(parent + policy, std), Gaussian(parent + reference, std), batch).per_example)


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
    # As printed: z = -0.0003 + 0.5 = 0.4997; ln(1 + e^-0.4997) = 0.474190
    assert loss(RDPO(psi_sign="printed"), 0.101, 0.1, 0.6005, 1.3505) == pytest.approx(0.474190, abs=2e-5)


def test_defaults_are_those_of_the_papers():
    assert RDPO() == RDPO(
        search=Search("tree", 2, (0, 4, 8, 12, 16), "delta_parent", "best"), beta=0.1, psi_lambda=100.0,
        psi_sign="intended", ratio_clip_eps=0.0, logp_reduce="mean",
    )  # fmt: skip
    assert TailorPO() == TailorPO(
        search=Search("tree", 2, (0, 4, 8, 12, 16), "q", "best"), beta=0.1, psi_lambda=0.0, ratio_clip_eps=0.0
    )
    assert D3PO() == D3PO(
        search=Search("chain", 2, tuple(range(20)), "final", "best", same_start=True), beta=0.1, psi_lambda=0.0,
        ratio_clip_eps=0.1,
    )  # fmt: skip


def test_with_psi_off_rdpo_is_tailorpo():
    assert loss(replace(RDPO(), psi_lambda=0.0), -0.2, 0.4, 0.3, -0.8) == loss(TailorPO(), -0.2, 0.4, 0.3, -0.8)
