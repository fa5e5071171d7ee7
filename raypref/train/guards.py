"""Guards: what went wrong in an iteration, by name, and what a run does about it."""

import math

import torch

from raypref.core.pictures import diversity, saturation
from raypref.train.experiment import GuardAction, GuardConfig
from raypref.train.scorer import Judgement
from raypref.train.stopped import StoppedRun


class GuardStop(StoppedRun):
    """A guard that is set to stop the run."""


def picture_alarms(
    config: GuardConfig, judgements: list[Judgement], images_per_prompt: int, base_diversity: float
) -> dict[str, int]:
    """Alarms from an evaluation, 1 each. `base_diversity` is NaN for the base model itself."""
    images = torch.cat([part.images for part in judgements])
    alarms = {}
    if saturation(images) > config.saturated_share:
        alarms["saturated"] = 1
    if not math.isnan(base_diversity):
        now = diversity(images.unflatten(0, (-1, images_per_prompt)))
        if now < config.diversity_share * base_diversity:
            alarms["diversity"] = 1
    return alarms


def demanded(config: GuardConfig, alarms: dict[str, int]) -> GuardAction:
    """The strongest action that any of the alarms calls for."""
    wanted = {getattr(config, name) for name in alarms}
    strongest: tuple[GuardAction, ...] = ("stop", "roll_back", "count")
    return next((action for action in strongest if action in wanted), "count")
