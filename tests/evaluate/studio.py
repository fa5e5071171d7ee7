"""A studio whose pictures are given, not drawn."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raypref.evaluate.question import Album, Contender, Scene, Studio
from raypref.train.experiment import Experiment
from tests.toy_runtime import toy_experiment

BASE, RUN, OTHER = Contender("base"), Contender("run", "colorfulness", 4), Contender("other", "jpeg", 9)

Drawn = Callable[[Contender, Scene], Album]


def album(scores: dict[str, Tensor], images: Tensor | None = None, kl: Tensor | None = None) -> Album:
    prompts, copies = next(iter(scores.values())).shape
    blank = torch.zeros(prompts, copies, 2, 2, 3, dtype=torch.uint8)
    names = tuple(f"p{place}" for place in range(prompts))
    return Album(names, blank if images is None else images, scores, kl, {})


class GivenStudio(Studio):
    """`drawn` says what a contender's pictures of a scene are."""

    def __init__(self, drawn: Drawn, *contenders: Contender, experiment: Experiment | None = None) -> None:
        self.experiment = experiment or toy_experiment(heldout_prompts=("f", "g", "h", "i"))
        self.contenders, self._drawn = contenders or (BASE, RUN), drawn

    def albums(self, who: Contender, scenes: Sequence[Scene]) -> list[Album]:
        return [self._album(who, scene) for scene in scenes]

    def _album(self, who: Contender, scene: Scene) -> Album:
        found = self._drawn(who, scene)
        return found if scene.pictures else found.scores_alone()


def scored(scores: dict[Contender, dict[str, Tensor]]) -> Drawn:
    return lambda who, scene: album(scores[who])
