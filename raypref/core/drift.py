"""How far a policy has moved from its reference, at what was sampled: the same figures for every method."""

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.process import Gaussian
from raypref.core.types import LOSE, WIN, Transitions


@torch.no_grad()
def drift(policy: Gaussian, reference: Gaussian, batch: Transitions) -> dict[str, Float[Tensor, " B"]]:
    """Figures of each row, in nats an element; `policy` and `reference` hold means [M B C H W].

    - rho_win, rho_lose: log policy / reference of what was drawn. A single step counts as won where its advantage is
      positive; the other figure is NaN.
    - kl: KL(policy || reference) of the step, in closed form. Before ranking, a sample of the very policy has
      E[rho] = kl, so winners and losers rise together as soon as the policy moves; rho_win_excess and rho_lose_excess
      are what ranking (and with lag 1, an older policy's samples) puts above or below that.
    - radius_win, of pairs: |x_s - mean| / (sigma sqrt(C H W)) of the winner: 1 for a sample of the policy, and more for
      one that guidance has moved out of where its samples lie.
    - accuracy, of pairs: 1 where rho_win exceeds rho_lose, 0.5 where they are equal.
    """
    rho = policy.log_ratio(reference, batch.x_s)  # [A B]
    kl = policy.kl(reference).expand_as(rho)  # of each arm's own parent
    excess = rho - kl
    figures = {"kl": kl.mean(0)}
    if len(rho) == 2:
        figures["accuracy"] = 0.5 + 0.5 * (rho[WIN] - rho[LOSE]).sign()
        offset = (batch.x_s[WIN] - policy.mean[0]) / policy.std[:, None, None, None]
        figures["radius_win"] = offset.square().mean((-3, -2, -1)).sqrt()
        return figures | {
            "rho_win": rho[WIN],
            "rho_lose": rho[LOSE],
            "rho_win_excess": excess[WIN],
            "rho_lose_excess": excess[LOSE],
        }
    won, nothing = batch.credit[0] * batch.weight > 0, torch.full_like(kl[0], torch.nan)
    for name, values in (("rho_{}", rho[0]), ("rho_{}_excess", excess[0])):
        figures[name.format("win")] = torch.where(won, values, nothing)
        figures[name.format("lose")] = torch.where(won, nothing, values)
    return figures
