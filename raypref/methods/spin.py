"""SPIN-Diffusion: self-play, in which real pictures win against those of the iterate before."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import OwnSamples, Regression, noised
from raypref.core.regression_losses import diffusion_dpo
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.core.seeding import Key
from raypref.core.types import Loss, Preferences
from raypref.methods.regression import Own, RegressionMethod, check_positive


@dataclass(frozen=True)
class SPIN(RegressionMethod):
    """SPIN-Diffusion (Yuan et al. 2024, arXiv:2402.10210):

        L = -log sigmoid( -beta / 2 [ (e_w - e_w_k) - (e_l - e_l_k) ] ),   x_l ~ p_k(x | c)

    Diffusion-DPO's loss, where the winner is a desirable picture of the data, and the loser one that the iterate k has
    drawn for the same prompt; the iterate is the reference, too.

    Paper -> code: iterate k -> the version of the weights that drew the iteration's samples: with run.lag = 0 the
    policy at its start, with run.lag = 1 the one before.
    Learning rate: 2e-5 on the authors' model cards.
    Departures: an iterate is trained for one iteration of run.prompts_per_iteration pictures (times
    optimizer.num_inner_epochs), not for 500 updates of 2048, as the cards say; ask for more prompts to have fewer,
    longer iterates. The authors' code was not available to us: beta is Diffusion-DPO's.
    """

    name: ClassVar[str] = "spin"
    paper: ClassVar[str] = "arXiv:2402.10210"

    reads: ClassVar[int] = 1
    desirable_only: ClassVar[bool] = True
    own: ClassVar[Own] = "finished"
    against_iterate: ClassVar[bool] = True

    beta: float = 5000.0
    """See `DiffusionDPO.beta`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta, 5000.0)

    def supervise(
        self, preferences: Preferences, own: OwnSamples | None, schedule: Schedule | FlowSchedule, key: Key
    ) -> Regression:
        """Pairs of a real picture and an own one, with the same time and noise."""
        assert own is not None, "the samplers draw for it"
        assert own.prompts == preferences.prompts
        pairs = replace(preferences, x_0=torch.cat([preferences.x_0, own.latents[None]]))
        return noised(pairs, schedule, key)

    def loss(
        self, policy: Float[Tensor, "2 B C H W"], reference: Float[Tensor, "2 B C H W"], batch: Regression
    ) -> Loss:
        """See `raypref.core.regression_losses.diffusion_dpo`."""
        return diffusion_dpo(policy, reference, batch, beta=self.beta)
