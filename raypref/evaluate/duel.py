"""Two policies, picture by picture from the same noise."""

from jaxtyping import Float
from torch import Tensor

from raypref.core.seeding import Key
from raypref.evaluate.bootstrap import by_prompt, measured, share, tied, won
from raypref.evaluate.table import Measured

COLUMNS = ("win rate", "tied", "ours", "theirs", "difference")
MEANING = (
    "A win: our picture scores higher than theirs of the same prompt and from the same noise; a tie is half a win; 0.5 "
    "is no difference."
)


def duel(ours: Float[Tensor, "P n"], theirs: Float[Tensor, "P n"], key: Key) -> tuple[Measured, ...]:
    """Figures of COLUMNS; shares are of a prompt's pictures, and then averaged over prompts."""
    shares = tuple(share(by_prompt(column), key) for column in (won(ours, theirs), tied(ours, theirs)))
    return shares + tuple(measured(by_prompt(column), key) for column in (ours, theirs, ours - theirs))
