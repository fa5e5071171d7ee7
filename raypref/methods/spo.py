"""SPO: step-wise DPO on a pool of siblings judged by a preference model that knows the step."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.search import Search
from raypref.methods.stepwise_dpo import StepwiseDPO


@dataclass(frozen=True)
class SPO(StepwiseDPO):
    """SPO (Liang et al. 2024, arXiv:2406.04314):

        L = -log sigmoid( beta (clip(rho_w) - clip(rho_l)) )

    From the divert step on, four children of one parent are judged by a step-aware preference model; the best and the
    worst make a pair where their two-way softmax probabilities differ by more than a threshold; the trajectory goes on
    from a random child.

    Paper -> code: N -> search.candidates; divert_start_step = 4 -> search.steps from index 4 on; threshold -> threshold
    (0.3 is a score gap of 0.619); the preference model -> a reward that sees t, such as reward.name =
    "step_aware_match"; the SDXL variant -> search.inner_steps = 3, search.candidates = 2, steps three apart, threshold
    = 0.4.
    Learning rate: 6e-5 (SD 1.5), 1e-5 (SDXL) in the authors' configs.
    Departures: pairs are not shuffled across learners, for there is one.
    """

    name: ClassVar[str] = "spo"
    paper: ClassVar[str] = "arXiv:2406.04314"

    search: Search = Search(shape="tree", step_reward="q", follow="random", candidates=4, steps=tuple(range(4, 20)))
    beta: float = 10.0
    threshold: float = 0.3
    ratio_clip_eps: float = 0.1
