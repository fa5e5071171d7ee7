"""SFT: the pretraining loss, on pictures that are liked."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import Regression, error
from raypref.core.types import WIN, Loss
from raypref.methods.regression import RegressionMethod


@dataclass(frozen=True)
class SFT(RegressionMethod):
    """Supervised fine-tuning on desirable pictures, of pairs the preferred ones (Ho et al. 2020, arXiv:2006.11239, eq.
    14):

        L = |noise - noise_theta(x_t, t, c)|^2

    The baseline of every paper on preferences. It reads no reference, and asks none.
    """

    name: ClassVar[str] = "sft"
    paper: ClassVar[str] = "arXiv:2006.11239"

    arms: ClassVar[int] = 1
    reads: ClassVar[int] = 1
    desirable_only: ClassVar[bool] = True
    reference_free: ClassVar[bool] = True

    def loss(
        self, policy: Float[Tensor, "1 B C H W"], reference: Float[Tensor, "1 B C H W"] | None, batch: Regression
    ) -> Loss:
        """The error, a mean over the latent's elements."""
        return Loss(error(policy, batch)[WIN] * batch.weight, {})
