"""RDPO*: RDPO without its penalty."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.search import Search
from raypref.methods.stepwise_dpo import StepwiseDPO


@dataclass(frozen=True)
class RDPOStar(StepwiseDPO):
    """RDPO's ablation "RDPO*": the step's gain as the score, no Psi.

        L = -log sigmoid( beta (rho_w - rho_l) )

    Siblings share their parent, so the gain orders them exactly as TailorPO's Q does: with equal settings the two
    methods train on the same pairs (docs/step-rewards.md).

    Paper -> code: r*_t -> search.step_reward = "delta_parent"; beta -> beta; T_ft -> search.steps.
    """

    name: ClassVar[str] = "rdpo_star"
    paper: ClassVar[str] = "RDPO"

    search: Search = Search(shape="tree", step_reward="delta_parent", follow="best")
