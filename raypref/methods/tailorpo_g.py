"""TailorPO-G: TailorPO whose winner is moved along the gradient of the reward."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.search import Guidance, Search
from raypref.methods.stepwise_dpo import StepwiseDPO


@dataclass(frozen=True)
class TailorPOG(StepwiseDPO):
    """TailorPO with gradient guidance (Ren et al. 2025, arXiv:2502.01667):

        x_w <- x_w + g_t,   g_t along grad_x J(r(c, x_0-hat(x_w))),   L = -log sigmoid( beta (rho_w - rho_l) )

    The best of the siblings is moved and scored again, and the trajectory goes on from there; the pair is ranked by the
    new score, so a move that went wrong makes no winner. The gradient runs through network, decoder and reward, which
    must be differentiable.

    Paper -> code: the guided winner -> search.guidance (kind, scale, target, normalize). The paper's J and step size
    were not available to us: the kinds and the default length, a tenth of the step's noise, are ours.
    """

    name: ClassVar[str] = "tailorpo_g"
    paper: ClassVar[str] = "arXiv:2502.01667"

    search: Search = Search(
        shape="tree", step_reward="q", follow="best", guidance=Guidance(kind="reward_ascent", scale=0.1)
    )
