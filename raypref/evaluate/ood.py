"""Does what was learned on one set of prompts hold on others?"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from raypref.data.prompts import read_prompts
from raypref.data.source import PromptSource
from raypref.evaluate.duel import COLUMNS, MEANING, duel
from raypref.evaluate.question import Question, Scene, Studio, missing
from raypref.evaluate.table import Row, Table
from raypref.train.experiment import Experiment


@dataclass(frozen=True)
class OutOfDistribution(Question):
    """Trained on one set of prompts, judged on others: RDPO's Table 5 trains on animals and judges on Pick-a-Pic."""

    name: ClassVar[str] = "ood"
    paper: ClassVar[str] = "RDPO, Table 5"
    asks: ClassVar[str] = "Does what was learned on the training prompts hold on prompts of other kinds?"

    sets: tuple[str, ...] = ("animals:out_of_distribution",)
    """Sets of prompts, "PATH:SPLIT" or "PATH" as in run.prompts; the run's held-out prompts always come first."""
    sample: int = 0
    """So many prompts of each set, drawn at random, the same ones for every run; 0: all."""

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError('sets = []: name at least one, such as "animals:out_of_distribution".')

    def check(self, experiment: Experiment) -> None:
        """Reads the sets."""
        for name in self.sets:
            try:
                self._read(name)
            except ValueError as problem:
                raise ValueError(f"sets: {name!r}: {problem}") from None

    def prompts(self, experiment: Experiment) -> tuple[str, ...]:
        """Held-out ones, and those of all sets."""
        return experiment.heldout_prompts + tuple(prompt for name in self.sets for prompt in self._read(name))

    def answer(self, studio: Studio) -> Table:
        """A row a set, opponent and reward."""
        scenes = {"held out": studio.heldout()} | {name: Scene(self._read(name)) for name in self.sets}
        ours = studio.albums(studio.contenders[1], list(scenes.values()))
        rows, drawn = [], list(ours)
        for opponent in studio.opponents():
            theirs = studio.albums(opponent, list(scenes.values()))
            drawn += theirs
            rows += [
                Row((name, opponent.label, reward), duel(scores, other.scores[reward], studio.key()))
                for name, own, other in zip(scenes, ours, theirs, strict=True)
                for reward, scores in own.scores.items()
            ]
        return Table(
            question=self.name,
            caption=f"{studio.contenders[1].label}, trained on {studio.experiment.run.prompts}. {MEANING}",
            heads=("prompts", "against", "reward"),
            columns=COLUMNS,
            rows=tuple(sorted(rows, key=lambda row: list(scenes).index(row.labels[0]))),
            notes=missing(*drawn),
        )

    def _read(self, name: str) -> tuple[str, ...]:
        source = PromptSource.named(name)
        return read_prompts(PromptSource(source.path, source.split, sample=self.sample), Path())
