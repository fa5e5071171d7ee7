"""RDPO with eq. 9 as it is printed."""

from dataclasses import dataclass
from typing import ClassVar

from raypref.core.losses import PsiSign
from raypref.methods.rdpo import RDPO


@dataclass(frozen=True)
class RDPOPaper(RDPO):
    """RDPO, eq. 9 to the letter, for fidelity runs:

        L = -log sigmoid( beta (rho_w - rho_l) - lambda Psi ),   Psi = min(0, -rho_l)

    Both minus signs count: the objective falls as the loser's likelihood rises, against the text of the paper, and with
    lambda > beta it does so more strongly than DPO pulls the other way. Use "rdpo" for the stated aim.

    Paper -> code: as "rdpo"; eq. 9 -> psi_sign = "printed". eq. 6 is not taken literally: its printed order would train
    towards the worse step (search.step_reward = "delta_parent_printed" does that).
    """

    name: ClassVar[str] = "rdpo_paper"
    paper: ClassVar[str] = "RDPO"

    psi_sign: PsiSign = "printed"
