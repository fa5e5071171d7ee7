"""Several rewards as one: a weighted sum of standardised scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Required

import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict  # pydantic reads typing.TypedDict from Python 3.12 on only

from raypref import rewards
from raypref.registry import named_classes
from raypref.rewards.base import Reward, StepAwareReward


class Part(TypedDict, total=False):
    """One reward of a mixture, a table in `reward.parts`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    name: Required[str]
    weight: float
    """1 where it is left out."""
    mean: float
    """Of the reward's scores, where you know them; 0 where it is left out."""
    std: Annotated[float, Field(gt=0)]
    """1 where it is left out."""
    settings: dict[str, Any]
    """The reward's own keys."""


class Mixture(StepAwareReward):
    """sum_i weight_i (score_i - mean_i) / std_i. Means and standard deviations are stated, not estimated: a score then
    means the same at every iteration, and for every worker.

    Parts that know the time are told it. To prefer only what no reward finds worse, see `reward.also`.
    """

    name: ClassVar[str] = "mixture"
    unit: ClassVar[str] = "weighted standard deviations"
    range: ClassVar[str] = "that of its parts"
    differentiable: ClassVar[bool] = True

    def __init__(self, parts: Annotated[list[Part], Field(min_length=1)]) -> None:
        """Loads every part."""
        known = named_classes(rewards, Reward)
        self.parts_loaded = [(known[part["name"]](**part.get("settings", {})), part) for part in parts]

    @classmethod
    def parts(cls, settings: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """See Reward."""
        return [(part["name"], part.get("settings", {})) for part in settings["parts"]]

    @classmethod
    def complete(
        cls, settings: Mapping[str, Any], complete: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """See Reward."""
        plain = {"weight": 1.0, "mean": 0.0, "std": 1.0}
        parts = [
            plain | part | {"settings": complete(part["name"], part.get("settings", {}))} for part in settings["parts"]
        ]
        return {"parts": parts}

    def score_at(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], t: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """See the class."""
        total = torch.zeros(len(images), device=images.device)
        for reward, part in self.parts_loaded:
            if isinstance(reward, StepAwareReward):
                scores = reward.score_at(images, prompts, t)
            else:
                scores = reward.score(images, prompts)
            standardised = (scores.to(images.device) - part.get("mean", 0.0)) / part.get("std", 1.0)
            total = total + part.get("weight", 1.0) * standardised
        return total

    def accuracy(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> dict[str, Float[Tensor, " B"]]:
        """What its parts can tell."""
        found: dict[str, Tensor] = {}
        for reward, _ in self.parts_loaded:
            found |= reward.accuracy(images, prompts)
        return found
