"""DSPO: the winner's score is matched, moved on by how much the pair is still doubted."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import Regression
from raypref.core.regression_losses import implicit_margin, score_matching
from raypref.core.types import Loss
from raypref.methods.regression import RegressionMethod, check_positive


@dataclass(frozen=True)
class DSPO(RegressionMethod):
    """DSPO (Zhu et al. 2025, ICLR 2025), eq. 13, for Stable Diffusion 1.5:

        L = | (noise_theta - noise)_w - beta (1 - sigmoid(u)) (noise_theta - noise_ref)_w |^2
        u = -beta / 2 [ (e_w - e_w_ref) - (e_l - e_l_ref) ],   e = |noise - noise_theta(x_t, t, c)|^2

    Time and noise are the same for both pictures of a pair. The sigmoid has a gradient, as in the authors' code.

    Paper -> code: lambda (gamma = 1) -> beta, 0.001; A(t), B(t) are dropped, as in the paper; the half in u is that of
    the authors' code and not in eq. 11 (margin_scale = 1 gives the paper's).
    Learning rate: 1e-8 times the batch size in the authors' code, 2.05e-5 at 2048 pairs; the paper says 2.048e-8.
    Departures: e is a mean over the latent's elements, as in that code.

    What it comes to: with beta = 0.001, u is nearly 0 and the sigmoid 1/2, so the loss is SFT's on the winner with a
    target that is 0.05 % further from the reference, and the loser hardly counts.
    """

    name: ClassVar[str] = "dspo"
    paper: ClassVar[str] = "ICLR 2025"

    beta: float = 0.001
    margin_scale: float = 0.5
    """Of u."""
    detach_sigmoid: bool = False
    """Whether the sigmoid counts as a constant, as a target would."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("beta", self.beta, 0.001)
        check_positive("margin_scale", self.margin_scale, 0.5)

    def loss(
        self, policy: Float[Tensor, "2 B C H W"], reference: Float[Tensor, "2 B C H W"], batch: Regression
    ) -> Loss:
        """See `score_matching`; lambda(t) multiplies the squared error."""
        margin = implicit_margin(policy, reference, batch, self.margin_scale * self.beta)
        doubt = torch.sigmoid(-(margin.detach() if self.detach_sigmoid else margin))
        found = score_matching(policy, reference, batch, self.beta * doubt)
        return Loss(found * batch.weight, {"margin": margin.detach()})
