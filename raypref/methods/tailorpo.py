"""TailorPO: step-wise DPO on siblings ranked by the reward of their predicted clean picture."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.search import Search
from raypref.methods.stepwise_dpo import StepwiseDPO


@dataclass(frozen=True)
class TailorPO(StepwiseDPO):
    """TailorPO (Ren et al. 2025, arXiv:2502.01667), without its gradient guidance:

        L = -log sigmoid( beta (rho_w - rho_l) ),   rho = log pi_theta(x_s | x_t) / pi_ref(x_s | x_t)

    Children of one parent are ranked by Q(x_s) = reward of x_0-hat(x_s); the trajectory goes on from the winner. With a
    shared parent the gradient in the network's output is beta k (x_w - x_l) / sigma^2: no parent mismatch.

    Paper -> code: r_t(c, x_{t-1}) -> search.step_reward = "q"; beta -> beta. psi_lambda > 0 gives "TailorPO + Psi".
    """

    name: ClassVar[str] = "tailorpo"
    paper: ClassVar[str] = "arXiv:2502.01667"

    search: Search = Search(shape="tree", step_reward="q", follow="best")
