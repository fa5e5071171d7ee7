"""How much of the time each role had nothing to do."""

from collections.abc import Sequence
from typing import Any

from raypref.train.experiment import Experiment

BUSY = {"samplers": ("denoising", "syncing"), "reward workers": ("rewarding",), "learner": ("learning",)}
SCORING_THEMSELVES = {"samplers": ("denoising", "syncing", "rewarding"), "learner": ("learning",)}
"""Without reward workers. Two chunks of a sampler can be at work at once: its share may then be below 0."""


def idle_shares(experiment: Experiment, timings: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Role -> idle share of its workers' wall-clock time, while they were there, in iterations that no evaluation came
    before.

    Empty where there was none, nobody of a role was there, or a part was not measured yet; and without Ray, where one
    process plays all roles in turn. Busy is computing: proofs, packing and the learner's answers to the driver do not
    count.
    """
    cluster, every = experiment.cluster, experiment.evaluate.every
    if cluster.runtime == "local":
        return {}
    busy_parts = BUSY if cluster.reward_workers else SCORING_THEMSELVES
    earlier = [0.0, *(row["seconds"] for row in timings[:-1])]
    plain = [
        (row["seconds"] - before, row.get("samplers", cluster.samplers), row["busy_seconds"])
        for row, before in zip(timings, earlier, strict=True)
        if not every or row["iteration"] == 1 or (row["iteration"] - 1) % every
    ]
    wall = sum(seconds for seconds, _, _ in plain)
    present = {
        "samplers": sum(seconds * samplers for seconds, samplers, _ in plain),
        "reward workers": wall * cluster.reward_workers,
        "learner": wall,
    }
    measured = all(part in busy for *_, busy in plain for parts in busy_parts.values() for part in parts)
    if not all(present[role] for role in busy_parts) or not measured:
        return {}
    return {
        role: 1 - sum(busy[part] for *_, busy in plain for part in parts) / present[role]
        for role, parts in busy_parts.items()
    }
