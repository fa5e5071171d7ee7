"""Does a policy that was trained on one reward gain on the others?"""

from dataclasses import dataclass
from typing import ClassVar

from raypref.evaluate.bootstrap import by_prompt, measured
from raypref.evaluate.question import Album, Contender, Question, Studio, missing
from raypref.evaluate.table import Row, Table


@dataclass(frozen=True)
class Generalisation(Question):
    """Trained reward by evaluated reward, RDPO's Table 8: a row a run, a column a reward, every run's training reward
    among them; and again as gains over the base model."""

    name: ClassVar[str] = "generalisation"
    paper: ClassVar[str] = "RDPO, Table 8"
    asks: ClassVar[str] = "What do policies that were trained on one reward gain on the others?"

    def answer(self, studio: Studio) -> Table:
        """Scores, and below them their gains."""
        albums = {who: studio.albums(who, [studio.heldout()])[0] for who in studio.contenders}
        base, *trained = albums
        scores = [_row(who, "score", album, None, studio) for who, album in albums.items()]
        gains = [_row(who, "gain", albums[who], albums[base], studio) for who in trained]
        return Table(
            question=self.name,
            caption="A row says on what a policy was trained, a column by which it is judged; a gain is over "
            "the base model, prompt by prompt from the same noise.",
            heads=("run", "trained on", "figure"),
            columns=tuple(albums[base].scores),
            rows=(*scores, *gains),
            notes=missing(*albums.values()),
        )


def _row(who: Contender, figure: str, album: Album, base: Album | None, studio: Studio) -> Row:
    values = [scores if base is None else scores - base.scores[reward] for reward, scores in album.scores.items()]
    labels = (who.label, who.reward or "nothing", figure)
    return Row(labels, tuple(measured(by_prompt(column), studio.key()) for column in values))
