"""DSPO-ref: DSPO with the reference's score in the place of the data's."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import OwnSamples, Regression, noised
from raypref.core.regression_losses import implicit_margin, score_matching_without_data
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.core.seeding import Key
from raypref.core.types import Loss, Preferences
from raypref.methods.regression import RegressionMethod, check_positive


@dataclass(frozen=True)
class DSPORef(RegressionMethod):
    """DSPO-ref (Zhu et al. 2025, ICLR 2025), the ablation of Table 6: eq. 10 with p_ref in the place of p_data, which
    is eq. 46, on Stable Diffusion 1.5:

        L = (1 - sigmoid(u))^2 |noise_theta - noise_ref|_w^2

    with u and beta as in "dspo".

    Paper -> code: lambda -> beta; A(t), B(t) are dropped, as in the authors' code for SDXL.
    Learning rate: as "dspo".
    Departures: the authors' code has no such option for Stable Diffusion 1.5. Eq. 46 has no gradient at the reference,
    where training starts, so nearer to it than `switch` eq. 47 is taken, as that code does for SDXL ("dspo_sdxl").
    """

    name: ClassVar[str] = "dspo_ref"
    paper: ClassVar[str] = "ICLR 2025"

    beta: float = 0.001
    margin_scale: float = 0.5
    """Of u."""
    switch: float = 0.1
    """The mean squared distance from the reference at which eq. 46 takes over from eq. 47; 0: eq. 46 everywhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta, 0.001)
        check_positive("margin_scale", self.margin_scale, 0.5)
        if self.switch < 0:
            raise ValueError(f"switch = {self.switch}: use 0 (eq. 46 everywhere) or more, such as 0.1.")

    def supervise(
        self, preferences: Preferences, own: OwnSamples | None, schedule: Schedule | FlowSchedule, key: Key
    ) -> Regression:
        """See `noised`."""
        return noised(preferences, schedule, key)

    def loss(
        self, policy: Float[Tensor, "2 B C H W"], reference: Float[Tensor, "2 B C H W"], batch: Regression
    ) -> Loss:
        """See `score_matching_without_data`; lambda(t) multiplies the squared error."""
        margin = implicit_margin(policy, reference, batch, self.margin_scale * self.beta)
        doubt = torch.sigmoid(-margin)
        found = score_matching_without_data(policy, reference, batch, doubt, self.switch)
        return Loss(found * batch.weight, {"margin": margin.detach()})
