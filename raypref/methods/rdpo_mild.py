"""RDPO with a penalty below the ratio at which the reference itself attracts."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.methods.rdpo import RDPO


@dataclass(frozen=True)
class RDPOMild(RDPO):
    """RDPO with lambda = 0.5, that is lambda / beta = 5:

        L = -log sigmoid( beta (rho_w - rho_l) - lambda relu(rho_l) )

    Near the reference, on fresh pairs whose drift lies along the reward, Psi brakes more strongly than DPO pulls once
    lambda / beta exceeds 9.65; the paper's 100 / 0.1 is a hundred times above that.

    Paper -> code: as "rdpo".
    """

    name: ClassVar[str] = "rdpo_mild"
    paper: ClassVar[str] = "RDPO"

    psi_lambda: float = 0.5
