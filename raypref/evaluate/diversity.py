"""Are the pictures of one prompt still different from each other?"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raypref.core.pictures import diversity_by_prompt, form_diversity_by_prompt
from raypref.evaluate.bootstrap import measured
from raypref.evaluate.question import Question, Studio
from raypref.evaluate.table import Row, Table

MEASURES = {"diversity": diversity_by_prompt, "diversity of form": form_diversity_by_prompt}


@dataclass(frozen=True)
class Diversity(Question):
    """Between pictures of one prompt, against the base model's: a reward can rise while all of them become the same."""

    name: ClassVar[str] = "diversity"
    paper: ClassVar[str] = "ours"
    asks: ClassVar[str] = "Are the policy's pictures of one prompt still different from each other?"

    def answer(self, studio: Studio) -> Table:
        """A row a measure and policy."""
        images = {who: studio.albums(who, [studio.heldout()])[0].images for who in studio.contenders}
        rows = []
        for name, measure in MEASURES.items():
            values = {who: measure(pictures) for who, pictures in images.items()}
            base = values[studio.contenders[0]]
            known = base.masked_fill(base == 0, torch.nan)
            rows += [
                Row(
                    (name, who.label),
                    tuple(measured(column, studio.key()) for column in (found, found - base, found / known)),
                )
                for who, found in values.items()
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
