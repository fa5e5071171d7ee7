"""How often are the policy's pictures better than another's?"""

from dataclasses import dataclass
from typing import ClassVar

from raypref.evaluate.duel import COLUMNS, MEANING, duel
from raypref.evaluate.question import Question, Studio, missing
from raypref.evaluate.table import Row, Table


@dataclass(frozen=True)
class WinRate(Question):
    """Against the base model or other runs, by every reward: the figure of DSPO's tables 1, 2, 5 and 6 (whose columns
    are rewards and whose rows are methods), and of Diffusion-DRO's table 1."""

    name: ClassVar[str] = "win_rate"
    paper: ClassVar[str] = "DSPO, Tables 1, 2, 5, 6; Diffusion-DRO, Table 1"
    asks: ClassVar[str] = "How often are the policy's pictures better than the base model's, or another run's?"

    def answer(self, studio: Studio) -> Table:
        """A row an opponent and reward."""
        (ours,) = studio.albums(studio.contenders[1], [studio.heldout()])
        rows, albums = [], [ours]
        for opponent in studio.opponents():
            (theirs,) = studio.albums(opponent, [studio.heldout()])
            albums.append(theirs)
            rows += [
                Row((opponent.label, reward), duel(scores, theirs.scores[reward], studio.key()))
                for reward, scores in ours.scores.items()
            ]
        return Table(
            question=self.name,
            caption=f"{studio.contenders[1].label} on held-out prompts. {MEANING}",
            heads=("against", "reward"),
            columns=COLUMNS,
            rows=tuple(rows),
            notes=missing(*albums),
        )
