"""D3PO: DPO on whole trajectories, every step labelled by the finished picture."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.search import Search
from raypref.methods.stepwise_dpo import StepwiseDPO


@dataclass(frozen=True)
class D3PO(StepwiseDPO):
    """D3PO (Yang et al. 2024, arXiv:2311.13231):

        L = -log sigmoid( beta (clip(rho_w) - clip(rho_l)) ),   rho = log pi_theta(x_s | x_t) / pi_ref(x_s | x_t)

    Two trajectories of a prompt start at one x_T; the one whose picture scores higher wins at every step, each arm
    from its own parent. The authors' code clamps the ratio to [0.9, 1.1], hence ratio_clip_eps = 0.1.

    Paper -> code: beta -> beta; T -> search.steps (the default lists all 20 steps of a 20-step sampler).
    Departures: ties are dropped instead of trained at log 2. psi_lambda > 0 gives "D3PO + Psi".
    """

    name: ClassVar[str] = "d3po"
    paper: ClassVar[str] = "arXiv:2311.13231"

    search: Search = Search(shape="chain", step_reward="final", same_start=True, steps=tuple(range(20)))
    ratio_clip_eps: float = 0.1
