"""DSPO for SDXL: how much the pair is still doubted is made small, by itself."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import Regression
from raypref.core.regression_losses import implicit_margin, score_matching_without_data
from raypref.core.types import Loss
from raypref.methods.regression import RegressionMethod, check_positive


@dataclass(frozen=True)
class DSPOSDXL(RegressionMethod):
    """DSPO (Zhu et al. 2025, ICLR 2025), eq. 46 and 47, for SDXL: p_ref in the place of p_data,

        L = (1 - sigmoid(u))^2 |noise_theta - noise_ref|_w^2     far from the reference (eq. 46)
        L = (1 - sigmoid(u))^2                                   near it (eq. 47)

    with u as in "dspo". The pictures are only read by u.

    Paper -> code: lambda -> beta, 1000 to 5000 in the authors' README; A(t), B(t) are dropped, as in their code; the
    half in u is that of the code (margin_scale).
    Learning rate: 1e-8 times the batch size in that code, with Adafactor.
    Departures: the code's threshold (`switch`), which is not in the paper, is asked of each pair, where the code asks
    it of a micro-batch's mean. Of eq. 47's gradient: it vanishes where u is large, and where it is very negative, so
    that pairs that are confidently wrong are given up.
    """

    name: ClassVar[str] = "dspo_sdxl"
    paper: ClassVar[str] = "ICLR 2025"

    beta: float = 5000.0
    margin_scale: float = 0.5
    """Of u."""
    switch: float = 0.1
    """The mean squared distance from the reference at which eq. 46 takes over from eq. 47; 0: eq. 46 everywhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta, type(self).beta)
        check_positive("margin_scale", self.margin_scale, 0.5)
        if self.switch < 0:
            raise ValueError(f"switch = {self.switch}: use 0 (eq. 46 everywhere) or more, such as 0.1.")

    def loss(
        self, policy: Float[Tensor, "2 B C H W"], reference: Float[Tensor, "2 B C H W"], batch: Regression
    ) -> Loss:
        """See `score_matching_without_data`; lambda(t) multiplies the squared error."""
        margin = implicit_margin(policy, reference, batch, self.margin_scale * self.beta)
        doubt = torch.sigmoid(-margin)
        found = score_matching_without_data(policy, reference, batch, doubt, self.switch)
        return Loss(found * batch.weight, {"margin": margin.detach()})
