"""How far has the policy moved away from the base model?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raypref import rewards
from raypref.core.seeding import Key
from raypref.data.picture_files import list_pictures
from raypref.data.pictures import read_picture
from raypref.evaluate.bootstrap import by_prompt, measured
from raypref.evaluate.mmd import discrepancy, discrepancy_of_same_prompts, median_distance, swap_test
from raypref.evaluate.question import Contender, Question, Scene, Studio
from raypref.evaluate.table import Measured, Row, Table
from raypref.registry import named_classes
from raypref.rewards.base import Featured, Reward
from raypref.train.build import build_reward
from raypref.train.drawing import Compared
from raypref.train.experiment import Experiment
from raypref.train.scorer import DECODED_AT_ONCE

NO_FEATURES = (
    "No reward of the run has features of pictures, so distributions of pictures were not compared; name one in "
    "fidelity.tower."
)
NO_PICTURES = "No pictures of yours were given (fidelity.pictures), so there is no distance to them."
MMD, P_VALUE = "MMD²", "MMD²: p-value"
NO_FID = "FID is not computed: its network and reference statistics are not part of raypref."


@dataclass(frozen=True)
class Fidelity(Question):
    """KL of every step to the pretrained model's, and the maximum mean discrepancy of the pictures: to the base
    model's, and to a folder of yours where you name one."""

    name: ClassVar[str] = "fidelity"
    paper: ClassVar[str] = "ours; CMMD, arXiv:2401.09603"
    asks: ClassVar[str] = "How far has the policy moved from the base model, step by step, and in its pictures?"

    looks: ClassVar[bool] = True

    tower: str = ""
    """The reward whose features of pictures are compared; empty: the first of the run's that has any."""
    bandwidth: float = 0.0
    """Of the kernel, for features of length 1; 0: the median distance between the base model's pictures. With
    tower = "clip", 10 is CMMD's."""
    pictures: str = ""
    """A folder of pictures that good ones would look like; empty: none."""

    def __post_init__(self) -> None:
        if self.bandwidth < 0:
            raise ValueError(f"bandwidth = {self.bandwidth}: use a positive number, or 0 for the median distance.")

    def check(self, experiment: Experiment) -> None:
        """Looks for the tower and the folder."""
        known = named_classes(rewards, Reward)
        if self.tower and not (self.tower in known and issubclass(known[self.tower], Featured)):
            raise ValueError(f"tower = {self.tower!r}: it has no features of pictures; choose from {_able()}")
        if self.pictures and not self._tower(experiment):
            raise ValueError(
                f"pictures = {self.pictures!r}: which network's features are to be compared? Set fidelity.tower to one "
                f"of {_able()}"
            )
        if self.pictures:
            self._check_pictures()
        if len(experiment.heldout_prompts) < 2:
            raise ValueError("tower: to compare pictures takes two held-out prompts or more; see run.heldout_prompts")

    def _check_pictures(self) -> None:
        try:
            found = list_pictures(Path(self.pictures))
        except ValueError as problem:
            raise ValueError(f"pictures = {self.pictures!r}: {problem}") from None
        if len(found) < 2:
            raise ValueError(f"pictures = {self.pictures!r}: a folder with two pictures or more is needed")

    def answer(self, studio: Studio) -> Table:
        """A row a step and trained policy, and a row a distance between pictures."""
        notes, name = [NO_FID], self._tower(studio.experiment)
        tower = build_reward(name, **studio.experiment.settings_of(name)) if name else None
        assert tower is None or isinstance(tower, Featured), "checked"
        base, *trained = studio.contenders
        scene = Scene(studio.experiment.heldout_prompts, Compared(), pictures=tower is not None)
        looks = {who: _look(studio, who, scene, tower) for who in trained}
        rows = [row for who, look in looks.items() for row in _drift(who, look.kl, studio.key())]
        if tower is not None:
            looks = {base: _look(studio, base, studio.heldout(pictures=True), tower), **looks}
            rows += self._distances(tower, {who: look.features for who, look in looks.items()}, studio)
            notes += [] if self.pictures else [NO_PICTURES]
        else:
            notes.append(NO_FEATURES)
        return Table(
            question=self.name,
            caption="KL of a reverse step of the policy to the pretrained model's at the same state, along the "
            "policy's trajectories, in nats per latent element; step 0 is the noisiest. MMD² between features of "
            f"{name or 'no network'}, 0 for one distribution; pairs of pictures of one prompt do not count. Its error "
            "and interval, the bootstrap's, are of a distance that is there, and too wide where none is. Whether one "
            "is says the p-value: how often so large an MMD² comes of swapping the two sets prompt by prompt.",
            heads=("figure", "policy", "to"),
            columns=("value",),
            rows=tuple(rows),
            notes=tuple(notes),
        )

    def _tower(self, experiment: Experiment) -> str:
        known = named_classes(rewards, Reward)
        names = (experiment.reward.name, *experiment.reward.also, *experiment.evaluate.rewards)
        return self.tower or next((name for name in names if issubclass(known[name], Featured)), "")

    def _distances(
        self, tower: Featured, features: dict[Contender, Float[Tensor, "P n F"]], studio: Studio
    ) -> list[Row]:
        base, *trained = features
        width = self.bandwidth or median_distance(features[base])
        rows = []
        for who in trained:
            pair = (features[who], features[base], width, studio.key())
            chance = Measured(swap_test(*pair), math.nan, math.nan, math.nan, len(features[who]))
            rows += [(MMD, who, "base", discrepancy_of_same_prompts(*pair)), (P_VALUE, who, "base", chance)]
        if self.pictures:
            theirs = _features_of_files(tower, list_pictures(Path(self.pictures)))
            rows += [
                (MMD, who, self.pictures, discrepancy(own, theirs, width, studio.key()))
                for who, own in features.items()
            ]
        return [Row((figure, who.label, to), (value,)) for figure, who, to, value in rows]


def _able() -> str:
    """The rewards that have features."""
    return ", ".join(name for name, kind in named_classes(rewards, Reward).items() if issubclass(kind, Featured))


@dataclass(frozen=True)
class _Look:
    """What is left of pictures when they have been looked at."""

    kl: Float[Tensor, "P n T"] | None
    features: Float[Tensor, "P n F"]
    """F = 0 where no network is asked."""


def _look(studio: Studio, who: Contender, scene: Scene, tower: Featured | None) -> _Look:
    (album,) = studio.albums(who, [scene])
    nothing = torch.empty(len(scene.prompts), studio.experiment.evaluate.images_per_prompt, 0)
    return _Look(album.kl, nothing if tower is None else _features(tower, album.images))


def _drift(who: Contender, kl: Float[Tensor, "P n T"] | None, key: Key) -> list[Row]:
    assert kl is not None, "asked for"
    by_step = {
        step: measured(by_prompt(column), key)
        for step, column in enumerate(kl.unbind(-1))
        if not bool(column.isnan().all())
    }
    steps = [Row((f"KL at step {step}", who.label, "base"), (value,)) for step, value in by_step.items()]
    mean = measured(by_prompt(kl.nanmean(-1)), key)
    return [Row(("KL, mean over steps", who.label, "base"), (mean,)), *steps]


def _features(tower: Featured, images: UInt8[Tensor, "P n height width 3"]) -> Float[Tensor, "P n F"]:
    parts = images.flatten(0, 1).permute(0, 3, 1, 2).split(DECODED_AT_ONCE)
    found = torch.cat([_of_length_1(tower, part.float() / 255) for part in parts])
    return found.unflatten(0, images.shape[:2])


def _features_of_files(tower: Featured, files: Iterable[Path]) -> Float[Tensor, "Q 1 F"]:
    """Each alone, for they may differ in size."""
    return torch.stack([_of_length_1(tower, read_picture(file.read_bytes())[None]) for file in files])


@torch.no_grad()
def _of_length_1(tower: Featured, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
    features = tower.features(images).float().cpu()
    lengths = features.norm(dim=-1, keepdim=True)
    if not bool((lengths > 0).all()) or not math.isfinite(float(lengths.sum())):
        raise ValueError(f"{tower}: features of a picture are zero or not finite")
    return features / lengths
