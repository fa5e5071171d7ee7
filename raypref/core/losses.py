"""Losses on reverse steps: plain functions of Gaussians and a batch."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from raypref.core.process import Gaussian, Reduce
from raypref.core.types import LOSE, WIN, Loss, Transitions

PsiSign = Literal["intended", "printed"]
PsiCenter = Literal["none", "kl"]


@dataclass(frozen=True)
class Psi:
    """RDPO's penalty on the loser (eq. 9), for any loss on pairs."""

    weight: float = 0.0
    """lambda."""
    sign: PsiSign = "intended"
    """intended: subtracts lambda relu(rho_l) from the margin, as RDPO's text describes. printed: adds it."""
    inside_beta: bool = False
    """Multiplies lambda by beta (DPO-Positive's placement)."""
    center: PsiCenter = "none"
    """kl: penalises relu(rho_l - KL), the loser's excess over what drift alone shows."""

    def penalty(self, rho_lose: Float[Tensor, " B"], kl_lose: Float[Tensor, " B"], beta: float) -> Float[Tensor, " B"]:
        """What is subtracted from the margin.

        RDPO writes -lambda Psi with Psi = min(0, log pi_ref / pi_theta) = -relu(rho_l), so the printed objective
        *falls* as the loser's likelihood rises. relu, not clamp: rho_l is exactly 0 at the first update, where no
        violation exists and no gradient may flow.
        """
        excess = rho_lose - kl_lose.detach() if self.center == "kl" else rho_lose
        penalty = self.weight * (beta if self.inside_beta else 1.0) * F.relu(excess)
        return penalty if self.sign == "intended" else -penalty


NO_PSI = Psi()


def stepwise_dpo(
    policy: Gaussian,
    reference: Gaussian,
    batch: Transitions,
    *,
    beta: float,
    psi: Psi = NO_PSI,
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
    kl = policy.kl(reference, logp_reduce).expand_as(rho)[LOSE]  # of the loser's own parent
    margin = beta * (kept[WIN] - kept[LOSE]) - psi.penalty(rho[LOSE], kl, beta)
    silent = (kept != rho).all(0).float()  # the DPO term, where both arms are clamped
    return Loss(-F.logsigmoid(margin * batch.weight), {"margin": margin.detach(), "zero_gradient": silent})


def ppo_clip(policy: Gaussian, batch: Transitions, *, clip_range: float) -> Loss:
    """max(-A ratio, -A clip(ratio, 1 - eps, 1 + eps)),  ratio = policy / behaviour at the step taken.

    DDPO (arXiv:2305.13301), the importance-sampled estimator. The behaviour policy is the one that drew the batch: its
    mean travels with it, so the ratio is taken in the factored form and is exactly 1 before the first update.
    log-probabilities are means over the latent's elements, as in the authors' code, which clip_range assumes.

    Raises:
        ValueError: where the batch does not hold the mean of the policy that drew it.
    """
    if batch.mean is None:
        raise ValueError("ppo_clip needs the mean of the policy that drew the batch: search with keep_mean = true")
    advantage = batch.credit[0] * batch.weight
    policy, behaviour = Gaussian(policy.mean[0], policy.std), Gaussian(batch.mean[0], policy.std)
    ratio = policy.log_ratio(behaviour, batch.x_s[0]).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    silent = (-advantage * clipped > -advantage * ratio).float()
    return Loss(
        per_example=torch.maximum(-advantage * ratio, -advantage * clipped),
        metrics={"ratio": ratio.detach(), "zero_gradient": silent.detach()},
    )
