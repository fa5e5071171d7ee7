"""Diffusion-DRO: expert pictures are told from what the policy does itself, by a hinge."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import OwnSamples, Regression, gain, noised_at, row_keys
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.core.seeding import Key
from raypref.core.types import LOSE, WIN, Loss, Preferences
from raypref.methods.regression import Own, RegressionMethod


@dataclass(frozen=True)
class DRO(RegressionMethod):
    """Diffusion-DRO (Wu et al. 2025, arXiv:2510.18353):

        L = max( 0, m + [ e_w - e_w_ref ] - [ e_l - e_l_ref ] )

    The first arm is an expert's picture with noise, whose target is that noise; the second a state x_t of a trajectory
    that the policy has drawn for the same prompt, whose target is the noise that the policy itself predicted there.
    Both are at one of the sampler's steps, at random. log Z of the inverse reward cancels between them.

    Paper -> code: m -> margin; p_theta, which draws -> the version of the weights that run.lag says; p_phi -> the
    policy.
    Learning rate: 1e-4 in the authors' code.
    Departures: trajectories are those of [sampling], unguided, where the authors use DPM-Solver++ on a perturbed grid;
    each is used once, without their buffer of four batches. Weights are float32, not bfloat16.

    What it comes to: at the weights that drew the trajectory e_l is 0 and at its minimum, so that the own arm has no
    gradient. It only decides, by e_l_ref, which experts are still trained on, until an update, or run.lag = 1, has
    taken the policy away from what drew.
    """

    name: ClassVar[str] = "dro"
    paper: ClassVar[str] = "arXiv:2510.18353"

    reads: ClassVar[int] = 1
    desirable_only: ClassVar[bool] = True
    own: ClassVar[Own] = "on_the_way"

    margin: float = 0.001
    """m, in mean squared error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise ValueError(f"margin = {self.margin}: use 0 or more, such as 0.001.")

    def supervise(
        self, preferences: Preferences, own: OwnSamples | None, schedule: Schedule | FlowSchedule, key: Key
    ) -> Regression:
        """Experts at the times of the policy's states."""
        assert own is not None, "the samplers draw for it"
        assert own.out is not None, "and tell what they predicted"
        assert own.prompts == preferences.prompts
        experts = noised_at(preferences, schedule, own.t, row_keys(preferences.items, key))
        return replace(
            experts,
            x_t=torch.cat([experts.x_t, own.latents[None]]),
            target=torch.cat([experts.target, own.out[None]]),
        )

    def loss(
        self, policy: Float[Tensor, "2 B C H W"], reference: Float[Tensor, "2 B C H W"], batch: Regression
    ) -> Loss:
        """lambda(t) multiplies what the margin is compared with."""
        found = gain(policy, reference, batch)
        lead = found[WIN] - found[LOSE]
        per_example = F.relu(self.margin - batch.weight * lead)
        return Loss(per_example, {"margin": lead.detach(), "zero_gradient": (per_example == 0).float().detach()})
