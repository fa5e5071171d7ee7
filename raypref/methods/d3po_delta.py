"""D3PO whose steps are labelled by their own gain, not by the finished picture."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.search import Search
from raypref.methods.stepwise_dpo import StepwiseDPO


@dataclass(frozen=True)
class D3PODelta(StepwiseDPO):
    """D3PO's two trajectories from one x_T, each step won by the larger gain Q(x_s) - Q(x_t):

        L = -log sigmoid( beta (rho_w - rho_l) ),   each arm from its own parent

    The margin of two transitions with different parents is a difference of advantages, and Q(x_t) is the baseline that
    removes what a trajectory had before the step. This is where the gain and Q truly disagree (docs/step-rewards.md).

    Paper -> code: RDPO's r*_t -> search.step_reward = "delta_cross". The combination is ours; no clamp by default.
    """

    name: ClassVar[str] = "d3po_delta"
    paper: ClassVar[str] = "RDPO"

    search: Search = Search(shape="chain", step_reward="delta_cross", same_start=True, steps=tuple(range(20)))
