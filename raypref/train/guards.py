"""Guards: what went wrong in an iteration, by name, and what a run does about it."""

import math
from collections import Counter

import torch

from raypref.core.pictures import diversity, saturation
from raypref.train.experiment import GuardAction, GuardConfig
from raypref.train.scorer import Judgement
from raypref.train.stopped import StoppedRun


class GuardStop(StoppedRun):
    """A guard that is set to stop the run."""


class BadRewards(StoppedRun):
    """A reward that fails too often, or cannot tell pictures apart."""


def commonest(failures: dict[str, int]) -> dict[str, int]:
    """Three of the reasons why rewards gave no score; there may be as many as pictures."""
    return dict(Counter(failures).most_common(3))


def on_one_line(failures: dict[str, int]) -> str:
    """The commonest reasons, with the number of pictures."""
    return "; ".join(f"{why} ({count}x)" for why, count in commonest(failures).items())


def check_rewards(
    config: GuardConfig, iteration: int, dropped: dict[str, int], kept: int, failures: dict[str, int]
) -> None:
    """Looks at why an iteration's rows were dropped, beside those kept; `failures` are the rewards' own reasons.

    Raises:
        BadRewards: where more lack a score, or are tied, than the config allows.
    """
    total = max(1, sum(dropped.values()) + kept)
    missing, tied = dropped.get("unscored", 0) / total, dropped.get("tie", 0) / total
    if missing > config.missing_share:
        raise BadRewards(
            f"iteration {iteration}: {missing:.1%} of the pairs lack a score, more than guard.missing_share = "
            f"{config.missing_share:g} allows. {on_one_line(failures)}. Mend the reward and go on with `raypref "
            "resume`, or raise the limit there"
        )
    if tied > config.tied_share:
        raise BadRewards(
            f"iteration {iteration}: {tied:.1%} of the pairs are exact ties, more than guard.tied_share = "
            f"{config.tied_share:g} allows: the reward is constant on these pictures. Mend it and go on with "
            "`raypref resume`, or raise the limit there"
        )


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
