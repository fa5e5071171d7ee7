"""Does a score given early agree with the final one about which picture is better?"""

import torch
from jaxtyping import Float
from torch import Tensor


def kendall_tau(early: Float[Tensor, "P n"], late: Float[Tensor, "P n"]) -> float:
    """Kendall's tau over the pairs within each row, pooled over rows: (agreeing - disagreeing) / (agreeing +
    disagreeing). Pairs that either score ties, or leaves unscored, do not count; NaN where none is left.

    Rows are prompts: pictures of different prompts are never compared, for a prompt's own level is not a rank.
    """
    first, second = torch.triu_indices(early.shape[1], early.shape[1], offset=1)
    agreement = (early[:, first] - early[:, second]).sign() * (late[:, first] - late[:, second]).sign()
    counted = agreement.nan_to_num().abs().sum()
    return float(agreement.nansum() / counted)
