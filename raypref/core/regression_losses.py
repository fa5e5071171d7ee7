"""Losses on noisy latents and targets: plain functions of outputs and a batch.

Errors are means over the latent's elements, and the paper's constants T omega(lambda_t) are absorbed into beta, as in
the authors' codes: published betas assume both.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from raypref.core.process import over_latent
from raypref.core.regression import Regression, gain
from raypref.core.types import LOSE, WIN, Loss


def diffusion_dpo(
    policy: Float[Tensor, "2 B C H W"],
    reference: Float[Tensor, "2 B C H W"],
    batch: Regression,
    *,
    beta: float,
    margin_scale: float = 0.5,
) -> Loss:
    """-log sigmoid(z),  z = -beta / 2 [ (e_w - e_w_ref) - (e_l - e_l_ref) ],  e = |out - target|^2.

    Diffusion-DPO (arXiv:2311.12908), eq. 14, with the half of the authors' code (`margin_scale`), which beta = 5000
    assumes. log 2 where policy and reference agree.
    """
    margin = implicit_margin(policy, reference, batch, margin_scale * beta)
    return Loss(-F.logsigmoid(margin * batch.weight), {"margin": margin.detach()})


def implicit_margin(
    policy: Float[Tensor, "2 B C H W"], reference: Float[Tensor, "2 B C H W"], batch: Regression, beta: float
) -> Float[Tensor, " B"]:
    """The implicit reward of the winner less that of the loser."""
    rho = gain(policy, reference, batch)
    return beta * (rho[WIN] - rho[LOSE])


def score_matching(
    policy: Float[Tensor, "A B C H W"],
    reference: Float[Tensor, "A B C H W"],
    batch: Regression,
    pull: Float[Tensor, " B"] | float,
) -> Float[Tensor, " B"]:
    """|(out - target) - pull (out - out_ref)|^2 of the winner: DSPO's eq. 13 and 45.

    The target is the score of the data, moved from the reference by `pull` times what the policy has moved already.
    """
    pull = pull[:, None, None, None] if isinstance(pull, Tensor) else pull
    residual = (policy[WIN] - batch.target[WIN]) - pull * (policy[WIN] - reference[WIN])
    return over_latent(residual.square(), "mean")


def score_matching_without_data(
    policy: Float[Tensor, "2 B C H W"],
    reference: Float[Tensor, "2 B C H W"],
    batch: Regression,
    doubt: Float[Tensor, " B"],
    switch: float,
) -> Float[Tensor, " B"]:
    """DSPO with p_ref in the place of p_data, by `doubt` = 1 - sigmoid(u):

        eq. 46:  doubt^2 |out - out_ref|^2     where |out - out_ref|^2 of the winner has reached `switch`
        eq. 47:  doubt^2                       nearer to the reference

    Eq. 46 alone, and its gradient, vanish where the policy is the reference, so that nothing could begin; the authors'
    code switches in the same way, at 0.1.
    """
    moved = over_latent((policy[WIN] - reference[WIN]).square(), "mean")
    return doubt.square() * torch.where(moved >= switch, moved, torch.ones_like(moved))
