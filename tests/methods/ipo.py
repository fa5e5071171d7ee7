"""A method that raypref does not have, as its user would write it: one file."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.process import Gaussian
from raypref.core.search import Search
from raypref.core.supervise import best_vs_worst, step_reward
from raypref.core.types import LOSE, WIN, Loss, Rollout, Transitions
from raypref.methods.base import StepMethod


@dataclass(frozen=True)
class IPO(StepMethod):
    """IPO (Azar et al. 2023, arXiv:2310.12036) on steps: (rho_w - rho_l - 1 / (2 tau))^2."""

    name: ClassVar[str] = "ipo"
    paper: ClassVar[str] = "arXiv:2310.12036"

    search: Search = Search(step_reward="q")
    tau: float = 0.5

    def supervise(self, rollout: Rollout) -> Transitions:
        return best_vs_worst(rollout, step_reward(rollout, self.search.step_reward))

    def loss(self, policy: Gaussian, reference: Gaussian, batch: Transitions) -> Loss:
        rho = policy.log_ratio(reference, batch.x_s)
        margin = batch.weight * (rho[WIN] - rho[LOSE])
        return Loss((margin - 1 / (2 * self.tau)) ** 2, {"rho_win": rho[WIN].detach(), "rho_lose": rho[LOSE].detach()})
