"""DSPO-E: DSPO on single pictures, without a preference."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import Regression
from raypref.core.regression_losses import score_matching
from raypref.core.types import Loss
from raypref.methods.regression import RegressionMethod, check_positive


@dataclass(frozen=True)
class DSPOE(RegressionMethod):
    """DSPO-E (Zhu et al. 2025, ICLR 2025), eq. 45:

        L = | (noise_theta - noise) - beta (noise_theta - noise_ref) |^2

    on desirable pictures, of pairs the preferred ones. No loser, and no sigmoid: for beta < 1 it is (1 - beta)^2 times
    SFT's loss with the target noise + beta / (1 - beta) (noise - noise_ref).

    Paper -> code: gamma beta -> beta. Learning rate: as "dspo".
    """

    name: ClassVar[str] = "dspo_e"
    paper: ClassVar[str] = "ICLR 2025"

    arms: ClassVar[int] = 1
    reads: ClassVar[int] = 1
    desirable_only: ClassVar[bool] = True

    beta: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta, 0.001)
        if self.beta >= 1:
            raise ValueError(f"beta = {self.beta}: from 1 on, the loss rewards being wrong; use less, such as 0.001.")

    def loss(
        self, policy: Float[Tensor, "1 B C H W"], reference: Float[Tensor, "1 B C H W"], batch: Regression
    ) -> Loss:
        """See `score_matching`; lambda(t) multiplies the squared error."""
        return Loss(score_matching(policy, reference, batch, self.beta) * batch.weight, {})
