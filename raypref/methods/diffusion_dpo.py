"""Diffusion-DPO: the pair's noise is explained better, or worse, than by the reference."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import Regression
from raypref.core.regression_losses import diffusion_dpo
from raypref.core.types import Loss
from raypref.methods.regression import RegressionMethod, check_positive


@dataclass(frozen=True)
class DiffusionDPO(RegressionMethod):
    """Diffusion-DPO (Wallace et al. 2024, arXiv:2311.12908), eq. 14:

        L = -log sigmoid( -beta / 2 [ (e_w - e_w_ref) - (e_l - e_l_ref) ] ),   e = |noise - noise_theta(x_t, t, c)|^2

    Time and noise are the same for both pictures of a pair.

    Paper -> code: beta T omega(lambda_t) -> beta / 2; the half is that of the authors' code, whose --beta_dpo this is.
    Learning rate: 1e-8 times the batch size in the authors' code, 2.05e-5 at 2048 pairs.
    Departures: e is a mean over the latent's elements, not a sum, as in that code; a pair that is a tie (data.ties =
    "keep") has the expected loss of both orders.
    """

    name: ClassVar[str] = "diffusion_dpo"
    paper: ClassVar[str] = "arXiv:2311.12908"

    beta: float = 5000.0
    """Strength of the pull, per unit of mean squared error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta, 5000.0)

    def loss(
        self, policy: Float[Tensor, "2 B C H W"], reference: Float[Tensor, "2 B C H W"], batch: Regression
    ) -> Loss:
        """See `raypref.core.regression_losses.diffusion_dpo`."""
        return diffusion_dpo(policy, reference, batch, beta=self.beta)
