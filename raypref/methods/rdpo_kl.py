"""RDPO* held near the reference by the KL divergence instead of Psi."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.methods.rdpo_star import RDPOStar


@dataclass(frozen=True)
class RDPOKL(RDPOStar):
    """RDPO's step reward with the closed-form KL in Psi's place:

        L = -log sigmoid( beta (rho_w - rho_l) ) + kappa KL,   KL = |mu_theta - mu_ref|^2 / (2 sigma^2 d)

    Psi stops being a brake once every loser lies above the reference, which drift alone brings about; KL brakes at any
    drift and needs nothing that is not computed already. Every method has the same `kl_coef`, off by default.

    Paper -> code: kappa -> kl_coef (ours, not the paper's).
    """

    name: ClassVar[str] = "rdpo_kl"
    paper: ClassVar[str] = "RDPO"

    kl_coef: float = 0.01
