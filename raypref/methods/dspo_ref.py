"""DSPO-ref: DSPO with the reference's score in the place of the data's."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.methods.dspo_sdxl import DSPOSDXL


@dataclass(frozen=True)
class DSPORef(DSPOSDXL):
    """DSPO-ref (Zhu et al. 2025, ICLR 2025), the ablation of Table 6: eq. 10 with p_ref in the place of p_data, which
    is eq. 46, on Stable Diffusion 1.5:

        L = (1 - sigmoid(u))^2 |noise_theta - noise_ref|_w^2

    with u and beta as in "dspo".

    Paper -> code: lambda -> beta; A(t), B(t) are dropped, as in the authors' code for SDXL.
    Learning rate: as "dspo".
    Departures: the authors' code has no such option for Stable Diffusion 1.5. Eq. 46 has no gradient at the reference,
    where training starts, so nearer to it than `switch` eq. 47 is taken, as that code does for SDXL: this is
    "dspo_sdxl" with another beta.
    """

    name: ClassVar[str] = "dspo_ref"
    paper: ClassVar[str] = "ICLR 2025"

    beta: float = 0.001
