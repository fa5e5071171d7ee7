"""What a question is: a value that says what to draw, and makes a table of it."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raypref.core.seeding import Key
from raypref.evaluate.table import Table
from raypref.train.drawing import Drawing, Plain
from raypref.train.experiment import Experiment
from raypref.train.scorer import Judgement, together


@dataclass(frozen=True)
class Contender:
    """A policy that pictures are asked of."""

    label: str
    """The run's name; "base" is the model that training starts from. No two are alike."""
    reward: str = ""
    """What it was trained on; empty: nothing."""
    iteration: int = 0
    """Its version."""


@dataclass(frozen=True)
class Scene:
    """What every contender is to draw: `evaluate.images_per_prompt` pictures a prompt, from seeds that are the same for
    all contenders."""

    prompts: tuple[str, ...]
    drawing: Drawing = Plain()
    sources: tuple[bytes, ...] = ()
    """One a prompt, where pictures are edited."""
    pictures: bool = False
    """Whether they are looked at: else an album has their scores alone, and costs next to no memory."""


@dataclass(frozen=True)
class Album:
    """What a contender drew: P prompts, n pictures of each."""

    prompts: tuple[str, ...]
    pictures: UInt8[Tensor, "P n height width 3"] | None
    """None where the scene asks for scores alone."""
    scores: dict[str, Float[Tensor, "P n"]]
    """Reward -> scores; NaN where there is none. The asked run's training reward comes first."""
    kl: Float[Tensor, "P n T"] | None = None
    """See `Judgement.kl`."""
    failures: dict[str, int] | None = None
    """Why, and of how many pictures, a reward said nothing."""

    @classmethod
    def of(cls, scene: Scene, images_per_prompt: int, judgements: Iterable[Judgement]) -> "Album":
        """All chunks of a scene, in which the pictures of a prompt stand side by side. They may come one by one: no
        picture is held twice."""
        count = len(scene.prompts) * images_per_prompt
        pixels = torch.empty(0, dtype=torch.uint8)
        scores, drifts, failures, place = defaultdict[str, list[Tensor]](list), list[Tensor](), dict[str, int](), 0
        for part in judgements:
            if scene.pictures:
                pixels = pixels if len(pixels) else pixels.new_empty(count, *part.images.shape[1:])
                pixels[place : place + len(part.images)] = part.images
                place += len(part.images)
            for name, values in part.scores.items():
                scores[name].append(values)
            drifts += [] if part.kl is None else [part.kl]
            failures = together(failures, part.failures)

        def by_prompt(parts: list[Tensor]) -> Tensor:
            return torch.cat(parts).unflatten(0, (-1, images_per_prompt))

        return cls(
            prompts=scene.prompts,
            pictures=by_prompt([pixels]) if scene.pictures else None,
            scores={name: by_prompt(parts) for name, parts in scores.items()},
            kl=by_prompt(drifts) if drifts else None,
            failures=failures,
        )

    @property
    def images(self) -> UInt8[Tensor, "P n height width 3"]:
        """The pictures.

        Raises:
            ValueError: where there are scores alone.
        """
        if self.pictures is None:
            raise ValueError("an album of scores alone: its scene must ask for pictures = True")
        return self.pictures

    def scores_alone(self) -> "Album":
        """The album without its pictures."""
        return replace(self, pictures=None)


class Studio(ABC):
    """Draws what questions ask for. `experiment` (what the asked run is judged with) and `contenders` are set by
    subclasses: the base model first, then the asked run, then those that it is compared with."""

    experiment: Experiment
    contenders: tuple[Contender, ...]

    @abstractmethod
    def albums(self, who: Contender, scenes: Sequence[Scene]) -> list[Album]:
        """A contender's pictures of each scene. What has been drawn before is not drawn again. Pictures take much room:
        whoever looks at them does so an album at a time, and lets go of it."""

    def heldout(self, pictures: bool = False) -> Scene:
        """The held-out prompts."""
        return Scene(self.experiment.heldout_prompts, pictures=pictures)

    def key(self) -> Key:
        """Of the bootstrap's draws: the same for every figure, so that no figure depends on which others are asked for.
        Which prompts are drawn together is another matter, for each figure sorts its values first."""
        return Key(self.experiment.run.seed)("bootstrap")

    def opponents(self) -> tuple[Contender, ...]:
        """Whom the asked run is compared with: the runs that were named, or else the base model."""
        return self.contenders[2:] or self.contenders[:1]


@dataclass(frozen=True)
class Question(ABC):
    """A question. Subclasses are frozen dataclasses, one a file, found by their `name`; their fields are settings."""

    name: ClassVar[str]
    """What `raypref evaluate --question` is given, and the section that its settings are below."""
    paper: ClassVar[str]
    """Where it comes from."""
    asks: ClassVar[str]
    """The question, in words."""
    trained: ClassVar[bool] = True
    """Whether it is about a trained policy; where not, a config alone will do."""
    looks: ClassVar[bool] = False
    """Whether it looks at pictures; where not, their scores will do, of which there is room for any number."""

    def check(self, experiment: Experiment) -> None:
        """Raises ValueError("setting = value: rule") where the settings cannot work with the experiment. Anything goes
        by default."""
        return

    def prompts(self, experiment: Experiment) -> tuple[str, ...]:
        """Every prompt that pictures may be asked of; the held-out ones by default."""
        return experiment.heldout_prompts

    @abstractmethod
    def answer(self, studio: Studio) -> Table:
        """Asks for pictures, and makes a table of them."""


def missing(*albums: Album) -> tuple[str, ...]:
    """A note on scores that are missing, where any are."""
    failures = together(*(album.failures or {} for album in albums))
    told = ", ".join(f"{count} x {why}" for why, count in failures.items())
    return (f"Missing scores, which do not count: {told}.",) if told else ()
