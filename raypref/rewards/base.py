"""What a reward is: pictures and prompts in, one score each out, higher is better."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Reward(ABC):
    """A reward. Subclasses are final, one a file, and are found by their `name`.

    The parameters of `__init__` are the keys that `[reward]` accepts beside the name. A reward is built once a worker.
    """

    name: ClassVar[str]
    """The key in `[reward] name = ...`."""
    unit: ClassVar[str]
    """What a score of 1 means."""
    range: ClassVar[str]
    """Where scores lie, for those who read them."""
    differentiable: ClassVar[bool]
    """Whether gradients flow from scores to images."""
    environment: ClassVar[str] = ""
    """Pins that its reward worker must have installed, see `raypref.rewards.environment`; none where empty."""

    @abstractmethod
    def score(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Scores, float32, higher is better; NaN where a picture could not be scored.

        Args:
            images: float32 in [0, 1].
            prompts: the text that each picture was made for.
        """

    def accuracy(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> dict[str, Float[Tensor, " B"]]:
        """Named yes/no judgements for evaluation (1, 0, or NaN where the prompt does not ask); none by default."""
        return {}

    @classmethod
    def refusal(cls, prompt: str) -> str:
        """Why no picture of that prompt can be scored, as far as can be told without loading anything; else empty."""
        return ""

    @classmethod
    def parts(cls, settings: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Names and settings of the rewards inside a reward of these settings; none by default."""
        return []

    @classmethod
    def complete(
        cls, settings: Mapping[str, Any], complete: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """All settings, also those that are left to their defaults. `complete` does the same for a reward inside, by
        its name."""
        accepted = inspect.signature(cls).parameters.values()
        return {each.name: each.default for each in accepted if each.default is not each.empty} | dict(settings)


class Featured(ABC):
    """What a reward also is whose network has features of pictures, by which sets of pictures can be compared."""

    @abstractmethod
    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Features of pictures in [0, 1]; of any length."""


class StepAwareReward(Reward):
    """A reward for predictions made within a denoising trajectory, which knows when each was made (SPO's preference
    model). Finished pictures are scored at time 0."""

    def score(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Scores of finished pictures."""
        return self.score_at(images, prompts, torch.zeros(len(images), dtype=torch.int64))

    @abstractmethod
    def score_at(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], t: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """As `score`; `t` is the time, in the noise schedule's units, at which each picture was predicted."""
