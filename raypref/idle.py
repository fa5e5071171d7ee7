"""How much of the time each role had nothing to do."""

from collections.abc import Sequence
from typing import Any

from raypref.train.experiment import Experiment

BUSY = {"samplers": ("denoising", "syncing"), "reward workers": ("rewarding",), "learner": ("learning",)}


def idle_shares(experiment: Experiment, timings: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Role -> idle share of its workers' wall-clock time, in iterations that no evaluation came before.

    Empty where there was none, or where a part was not measured yet. Without Ray one process plays all roles in turn,
    and the shares add up accordingly. Busy is computing: proofs, packing and the learner's answers to the driver do not
    count.
    """
    cluster, every = experiment.cluster, experiment.evaluate.every
    workers = {"samplers": cluster.samplers, "reward workers": cluster.reward_workers, "learner": 1}
    if cluster.runtime == "local":
        workers = dict.fromkeys(workers, 1)
    earlier = [0.0, *(row["seconds"] for row in timings[:-1])]
    plain = [
        (row["seconds"] - before, row["busy_seconds"])
        for row, before in zip(timings, earlier, strict=True)
        if not every or row["iteration"] == 1 or (row["iteration"] - 1) % every
    ]
    wall = sum(seconds for seconds, _ in plain)
    measured = all(part in busy for _, busy in plain for parts in BUSY.values() for part in parts)
    if not plain or not measured:
        return {}
    return {
        role: 1 - sum(busy[part] for _, busy in plain for part in parts) / (wall * workers[role])
        for role, parts in BUSY.items()
    }
