"""DDPO: policy gradient on whole trajectories, with PPO's clipped importance ratio."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.losses import ppo_clip
from raypref.core.process import Gaussian
from raypref.core.search import Search
from raypref.core.supervise import advantages, each_alone
from raypref.core.types import Loss, Rollout, Transitions
from raypref.methods.base import StepMethod


@dataclass(frozen=True)
class DDPO(StepMethod):
    """DDPO-IS (Black et al. 2024, arXiv:2305.13301):

        L = max( -A R, -A clip(R, 1 - eps, 1 + eps) ),   R = pi_theta(x_s | x_t) / pi_old(x_s | x_t)

    Every step of a trajectory is credited with the advantage of its finished picture: the reward, standardised over the
    trajectories of the same prompt, clamped to +-adv_clip_max.

    Paper -> code: epsilon -> clip_range; samples a prompt -> search.candidates; T -> search.steps (the default lists
    all 20 steps of a 20-step sampler); pi_old -> the mean that rollouts keep (search.keep_mean).
    Learning rate: 3e-4 in the authors' code.
    Departures: rewards are standardised within one iteration, without the running buffer of the authors' code, so an
    iteration does not depend on the ones before; log-probabilities are means over dimensions, as in that code.
    """

    name: ClassVar[str] = "ddpo"
    paper: ClassVar[str] = "arXiv:2305.13301"

    arms: ClassVar[int] = 1

    search: Search = Search(
        shape="chain",
        step_reward="final",
        candidates=4,
        same_start=False,
        steps=tuple(range(20)),
        keep_mean=True,
    )
    clip_range: float = 1e-4
    """epsilon, for a mean over the latent's elements; 1e-4 is 1.6 nats of log-ratio for Stable Diffusion 1.5."""
    adv_clip_max: float = 5.0
    """Advantages are clamped to this size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.clip_range < 1:
            raise ValueError(f"clip_range = {self.clip_range}: use a number between 0 and 1, such as 1e-4.")
        if not self.adv_clip_max > 0:
            raise ValueError(f"adv_clip_max = {self.adv_clip_max}: use a positive number, such as 5.0.")
        search = self.search
        if not search.keep_mean or (search.shape, search.step_reward) != ("chain", "final"):
            raise ValueError("search: ddpo needs shape = 'chain', step_reward = 'final' and keep_mean = true.")

    def supervise(self, rollout: Rollout) -> Transitions:
        """See `advantages` and `each_alone`."""
        return each_alone(rollout, advantages(rollout, self.adv_clip_max))

    def loss(self, policy: Gaussian, reference: Gaussian, batch: Transitions) -> Loss:
        """See `raypref.core.losses.ppo_clip`."""
        return ppo_clip(policy, batch, clip_range=self.clip_range)
