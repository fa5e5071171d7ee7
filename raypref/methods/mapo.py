"""MaPO: a margin between the likelihoods of winner and loser, without a reference."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import Regression, error
from raypref.core.types import LOSE, WIN, Loss
from raypref.methods.regression import RegressionMethod, check_positive


@dataclass(frozen=True)
class MaPO(RegressionMethod):
    """MaPO (Hong et al. 2024, arXiv:2406.06424):

        L = e_w - beta log sigmoid( T [ phi(e_w) - phi(e_l) ] ),   phi(e) = s e / (exp(s e) - 1)

    with e = |noise - noise_theta(x_t, t, c)|^2 and the same time and noise for both pictures of a pair. It reads no
    reference, and asks none.

    Paper -> code: beta -> beta; T -> margin_scale, 1000 as the noise levels of Stable Diffusion; s -> snr_value.
    Learning rate: 1e-5 in the authors' example.
    Departures: phi(0) is its limit 1, where the authors' code divides 0 by 0.
    """

    name: ClassVar[str] = "mapo"
    paper: ClassVar[str] = "arXiv:2406.06424"

    reference_free: ClassVar[bool] = True

    beta: float = 0.1
    """Weight of the margin's term."""
    snr_value: float = 0.5
    margin_scale: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta, 0.1)
        check_positive("snr_value", self.snr_value, 0.5)
        check_positive("margin_scale", self.margin_scale, 1000.0)

    def loss(
        self, policy: Float[Tensor, "2 B C H W"], reference: Float[Tensor, "2 B C H W"] | None, batch: Regression
    ) -> Loss:
        """lambda(t) multiplies both terms: the error, and the margin inside the sigmoid."""
        errors = error(policy, batch)
        score = phi(self.snr_value * errors)
        margin = self.margin_scale * (score[WIN] - score[LOSE])
        per_example = batch.weight * errors[WIN] - self.beta * F.logsigmoid(batch.weight * margin)
        return Loss(per_example, {"margin": margin.detach()})


def phi(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """x / (exp(x) - 1) for x >= 0. Near 0 by its series, which is good to 1e-12 there: the quotient is 0 / 0 at 0, and
    its gradient loses its digits before."""
    near = x < 0.05
    series = 1 - x / 2 + x**2 / 12 - x**4 / 720
    away = torch.where(near, torch.ones_like(x), x)  # a NaN that is not chosen would still spoil the gradient
    return torch.where(near, series, away / torch.expm1(away))
