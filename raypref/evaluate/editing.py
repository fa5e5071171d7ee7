"""Does the policy also change given pictures better?"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from raypref.data.picture_files import list_edits
from raypref.data.pictures import read_picture
from raypref.evaluate.duel import COLUMNS, MEANING, duel
from raypref.evaluate.question import Album, Contender, Question, Scene, Studio, missing
from raypref.evaluate.table import Row, Table
from raypref.train.drawing import Edited
from raypref.train.experiment import Experiment

KEPT = "source kept"


@dataclass(frozen=True)
class Editing(Question):
    """Image to image, as DSPO's Table 4 does with a thousand pictures of InstructPix2Pix: the original picture, and the
    caption of the edited one as the prompt."""

    name: ClassVar[str] = "editing"
    paper: ClassVar[str] = "DSPO, Table 4"
    asks: ClassVar[str] = "Are pictures that the policy changes (image to image) better than those of the base model?"

    looks: ClassVar[bool] = True

    strength: float = 0.75
    """The share of the steps that an edit takes: 1 keeps nothing of the source."""
    edits: str = ""
    """JSON lines of your pictures, as in {"image": "boat.png", "prompt": "a boat in a storm"}. Empty: the base model's
    picture of each held-out prompt is to become what the next one says."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength = {self.strength}: use a number above 0, up to 1, such as 0.75.")

    def check(self, experiment: Experiment) -> None:
        """Reads the edits."""
        try:
            self.prompts(experiment)
        except ValueError as problem:
            raise ValueError(f"edits = {self.edits!r}: {problem}") from None

    def prompts(self, experiment: Experiment) -> tuple[str, ...]:
        """What the sources are to become."""
        if self.edits:
            return tuple(prompt for _, prompt in list_edits(Path(self.edits)))
        return experiment.heldout_prompts[1:] + experiment.heldout_prompts[:1]

    def answer(self, studio: Studio) -> Table:
        """A row an opponent and reward, and one for how much of the source is left."""
        sources = self._sources(studio)
        scene = Scene(self.prompts(studio.experiment), Edited(self.strength), sources, pictures=True)
        ours, ours_kept = _look(studio, studio.contenders[1], scene)
        rows, albums = [], [ours]
        for opponent in studio.opponents():
            theirs, theirs_kept = _look(studio, opponent, scene)
            albums.append(theirs)
            figures = {name: (scores, theirs.scores[name]) for name, scores in ours.scores.items()}
            figures[KEPT] = (ours_kept, theirs_kept)
            rows += [Row((opponent.label, name), duel(*pair, studio.key())) for name, pair in figures.items()]
        whose = f"the pictures of {self.edits}" if self.edits else "the base model's picture of the prompt before"
        return Table(
            question=self.name,
            caption=f"{studio.contenders[1].label}, image to image at strength {self.strength:g}, from {whose}. "
            f"{MEANING} "
            f'"{KEPT}" is minus the mean absolute difference from the source, on 0 to 1.',
            heads=("against", "reward"),
            columns=COLUMNS,
            rows=tuple(rows),
            notes=missing(*albums),
        )

    def _sources(self, studio: Studio) -> tuple[bytes, ...]:
        if self.edits:
            return tuple(picture.read_bytes() for picture, _ in list_edits(Path(self.edits)))
        (base,) = studio.albums(studio.contenders[0], [studio.heldout(pictures=True)])
        return tuple(_png(pictures[0]) for pictures in base.images)


def _png(image: UInt8[Tensor, "height width 3"]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image.numpy()).save(content, "PNG")
    return content.getvalue()


def _look(studio: Studio, who: Contender, scene: Scene) -> tuple[Album, Float[Tensor, "P n"]]:
    """The scores of a contender's edits, and how much of the sources is left."""
    (album,) = studio.albums(who, [scene])
    kept = [_likeness(pictures, source) for pictures, source in zip(album.images, scene.sources, strict=True)]
    return album.scores_alone(), torch.stack(kept)


def _likeness(pictures: UInt8[Tensor, "n height width 3"], source: bytes) -> Float[Tensor, " n"]:
    original = read_picture(source, pictures.shape[1]).permute(1, 2, 0)
    return -(pictures.float() / 255 - original).abs().mean((1, 2, 3))
