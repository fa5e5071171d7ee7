"""Preference losses on reverse steps: plain functions of Gaussians and a batch."""

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from raypref.core.process import Gaussian, Reduce
from raypref.core.types import LOSE, WIN, Loss, Transitions

PsiSign = Literal["intended", "printed"]


def psi_penalty(rho_lose: Float[Tensor, " B"], psi_lambda: float, psi_sign: PsiSign) -> Float[Tensor, " B"]:
    """What Psi subtracts from the margin: lambda relu(rho_l) as RDPO's text intends, its negative as eq. 9 is printed.

    RDPO writes -lambda Psi with Psi = min(0, log pi_ref / pi_theta) = -relu(rho_l), so the printed objective *falls* as
    the loser's likelihood rises. relu, not clamp: rho_l is exactly 0 at the first update, where no violation exists and
    no gradient may flow.
    """
    penalty = psi_lambda * F.relu(rho_lose)
    return penalty if psi_sign == "intended" else -penalty


def stepwise_dpo(
    policy: Gaussian,
    reference: Gaussian,
    batch: Transitions,
    *,
    beta: float,
    psi_lambda: float = 0.0,
    psi_sign: PsiSign = "intended",
    ratio_clip_eps: float = 0.0,
    logp_reduce: Reduce = "mean",
) -> Loss:
    """-log sigmoid(z),  z = beta (clip(rho_w) - clip(rho_l)) - lambda relu(rho_l),  rho = log policy / reference.

    D3PO (arXiv:2311.13231) writes the first term, RDPO adds the second. `policy` and `reference` hold means [M B C H
    W], M = 1 for a shared parent. `ratio_clip_eps` above 0 clamps rho to [log(1 - eps), log(1 + eps)] as D3PO's code
    clamps the ratio; the penalty sees the unclamped rho_l, or its gradient would vanish where it is needed.
    """
    rho = policy.log_ratio(reference, batch.x_s, logp_reduce)  # [2 B]
    kept = rho
    if ratio_clip_eps > 0:
        kept = rho.clamp(math.log(1 - ratio_clip_eps), math.log(1 + ratio_clip_eps))
    margin = beta * (kept[WIN] - kept[LOSE]) - psi_penalty(rho[LOSE], psi_lambda, psi_sign)
    kl = policy.kl(reference, logp_reduce).expand_as(rho)  # of each arm's own parent
    metrics = {
        "rho_win": rho[WIN],
        "rho_lose": rho[LOSE],
        "margin": margin,
        "accuracy": 0.5 + 0.5 * (rho[WIN] - rho[LOSE]).sign(),
        "kl": kl.mean(0),
        "rho_win_excess": rho[WIN] - kl[WIN],
        "rho_lose_excess": rho[LOSE] - kl[LOSE],
        "both_clipped": (kept != rho).all(0).float(),  # such a pair has no DPO gradient
    }
    return Loss(
        per_example=-F.logsigmoid(margin * batch.weight),
        metrics={name: value.detach() for name, value in metrics.items()},
    )
