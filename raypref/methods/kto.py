"""Diffusion-KTO: single pictures, liked or not, against what is usual for the policy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import Regression, gain
from raypref.core.types import Loss
from raypref.methods.regression import RegressionMethod, check_positive


@dataclass(frozen=True)
class KTO(RegressionMethod):
    """Diffusion-KTO (Li et al. 2024, arXiv:2404.04465):

        L = w_y ( 1 - sigmoid( beta y (g - K) ) ),   g = e_ref - e,   K = max(0, mean g),   y = 1 or -1

    with e = |noise - noise_theta(x_t, t, c)|^2 and w = desirable_weight or undesirable_weight. K has no gradient. Of
    pairs each picture counts by itself.

    Paper -> code: beta T omega(lambda_t) -> beta, the authors' --beta_dpo; lambda_D, lambda_U -> desirable_weight,
    undesirable_weight; the reference point z_0 -> K.
    Learning rate: 1e-7 in the authors' example.
    Departures: K is the mean over the update's whole batch, the micro-batches of all ranks, where the authors' code
    takes that of one micro-batch of all GPUs: it does not depend on how a batch is cut. Desirable pictures are not
    drawn more often than others, as its sampler does (80 %); weigh them instead.
    """

    name: ClassVar[str] = "kto"
    paper: ClassVar[str] = "arXiv:2404.04465"

    arms: ClassVar[int] = 1
    reads: ClassVar[int] = 1
    coupled: ClassVar[bool] = True

    beta: float = 1000.0
    """Strength of the pull, per unit of mean squared error."""
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta, 1000.0)
        check_positive("desirable_weight", self.desirable_weight, 1.0)
        check_positive("undesirable_weight", self.undesirable_weight, 1.0)

    def loss(
        self, policy: Float[Tensor, "1 B C H W"], reference: Float[Tensor, "1 B C H W"], batch: Regression
    ) -> Loss:
        """lambda(t) multiplies what is inside the sigmoid."""
        found = gain(policy, reference, batch)[0]
        usual = (found.mean() if batch.baseline is None else batch.baseline).detach().clamp(min=0)
        desirable = batch.label == 1
        margin = self.beta * torch.where(desirable, found - usual, usual - found)
        weight = torch.where(desirable, self.desirable_weight, self.undesirable_weight)
        per_example = weight * torch.sigmoid(-margin * batch.weight)
        return Loss(per_example, {"margin": margin.detach(), "baseline": usual.expand_as(found)})
