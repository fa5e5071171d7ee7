"""RDPO: step-wise DPO on siblings ranked by the gain of the step, with a penalty on losers that rise."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.search import Search
from raypref.methods.stepwise_dpo import StepwiseDPO


@dataclass(frozen=True)
class RDPO(StepwiseDPO):
    """RDPO, eq. 6 and 9:

        L = -log sigmoid( beta (rho_w - rho_l) - lambda relu(rho_l) ),   rho = log pi_theta(x_s | x_t) / pi_ref(x_s |
        x_t)

    Two children of one parent x_t are ranked by the gain of the step, Q(x_s) - Q(x_t) with Q = reward of x_0-hat, and
    the trajectory goes on from the winner. Psi is meant to keep the loser's likelihood from rising above the
    reference's.

    Paper -> code: r*_t -> search.step_reward = "delta_parent"; Psi, lambda -> psi_lambda; beta -> beta;
    T_ft -> search.steps; the paper's step 20, 16, ... of 20 -> index 0, 4, ...

    Departures from the printed text, explained in docs/architecture.md:
    - eq. 6 prints Q(x_t) - Q(x_s), which ranks the worse step first; the text describes the gain, used here;
    - eq. 9 prints the sign that rewards a rising loser; the method "rdpo_paper" gives it literally;
    - log-probabilities are means over dimensions (beta = 0.1 and lambda = 100 assume that);
    - a rollout is finished before the update; the paper updates inside the denoising loop.
    """

    name: ClassVar[str] = "rdpo"
    paper: ClassVar[str] = "RDPO"

    search: Search = Search(shape="tree", step_reward="delta_parent", follow="best")
    psi_lambda: float = 100.0
