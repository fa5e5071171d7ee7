"""Are the pictures of one prompt still different from each other?"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.pictures import diversity_by_prompt, form_diversity_by_prompt
from raypref.evaluate.bootstrap import measured
from raypref.evaluate.question import Contender, Question, Studio
from raypref.evaluate.table import Row, Table

MEASURES = {"diversity": diversity_by_prompt, "diversity of form": form_diversity_by_prompt}


@dataclass(frozen=True)
class Diversity(Question):
    """Between pictures of one prompt, against the base model's: a reward can rise while all of them become the same."""

    name: ClassVar[str] = "diversity"
    paper: ClassVar[str] = "ours"
    asks: ClassVar[str] = "Are the policy's pictures of one prompt still different from each other?"

    looks: ClassVar[bool] = True

    def answer(self, studio: Studio) -> Table:
        """A row a measure and policy."""
        found = {who: _measured(who, studio) for who in studio.contenders}
        rows = []
        for name in MEASURES:
            values = {who: by_name[name] for who, by_name in found.items()}
            base = values[studio.contenders[0]]
            known = base.masked_fill(base == 0, torch.nan)
            rows += [
                Row(
                    (name, who.label),
                    tuple(measured(column, studio.key()) for column in (own, own - base, own / known)),
                )
                for who, own in values.items()
            ]
        return Table(
            question=self.name,
            caption="Mean absolute difference between pictures of one prompt, over all their pairs: of their pixels, "
            "on 0 to 1; of form, between grey pictures standardised to mean 0 and deviation 1, which stronger colour "
            "or contrast does not change. The share kept is a mean over prompts too.",
            heads=("measure", "policy"),
            columns=("difference between pictures", "change from base", "share kept"),
            rows=tuple(rows),
        )


def _measured(who: Contender, studio: Studio) -> dict[str, Float[Tensor, " P"]]:
    (album,) = studio.albums(who, [studio.heldout(pictures=True)])
    return {name: measure(album.images) for name, measure in MEASURES.items()}
