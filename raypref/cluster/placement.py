"""What a run asks of a cluster, a bundle of resources a role: for whoever starts, submits, tunes or shows a run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raypref.train.experiment import ClusterConfig

Role = Literal["learner", "reward worker", "sampler"]

GIGABYTE = 10**9
MARKET = "ray.io/market-type"
"""The label by which Ray tells spot from on-demand nodes."""
NOT_SPOT = {MARKET: "!spot"}
"""Where the learner is. A node without the label, a laptop say, is not known to be spot, and will do."""


@dataclass(frozen=True)
class Bundle:
    """A worker's place on one node, and how many workers of that role there are."""

    role: Role
    least: int
    """So many are there before a run starts."""
    most: int
    """So many are asked for, and join when they have a place."""
    cpus: float
    gpus: float
    """Below 1: a share of one GPU."""
    memory: int = 0
    """Bytes; 0: none are reserved."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """A label selector: the labels that the node must have, or (!) must not have."""

    def resources(self) -> dict[str, float]:
        """Of one worker, by Ray's names, as placement groups take them."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in wanted.items() if amount}

    def options(self) -> dict[str, Any]:
        """Of one worker, as actors take them."""
        memory = {"memory": self.memory} if self.memory else {}
        labels = {"label_selector": dict(self.labels)} if self.labels else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus} | memory | labels

    def fits(self, resources: Mapping[str, float], labels: Mapping[str, str]) -> bool:
        """Whether a node that has this, and is empty, could hold one worker."""
        room = all(resources.get(name, 0.0) >= amount for name, amount in self.resources().items())
        return room and all(_selects(selector, labels.get(label)) for label, selector in self.labels.items())

    def __str__(self) -> str:
        each = [f"{self.cpus:g} CPU", *([f"{self.gpus:g} GPU"] if self.gpus else [])]
        each += [f"{self.memory / GIGABYTE:g} GB"] if self.memory else []
        where = [f"{label} = {selector}" for label, selector in self.labels.items()]
        return ", ".join(each) + (f", on a node with {' and '.join(where)}" if where else "")


def placement(cluster: ClusterConfig) -> tuple[Bundle, ...]:
    """The bundles of a run, the learner's first; none for a role that it does without."""
    cpus, memory = cluster.worker_cpus, round(cluster.worker_memory * GIGABYTE)
    most = max(cluster.samplers, cluster.max_samplers)
    ranks, rewards = cluster.learner_ranks, cluster.reward_workers
    bundles = (
        Bundle("learner", ranks, ranks, cpus, cluster.learner_gpus, memory, NOT_SPOT | cluster.learner_labels),
        Bundle("reward worker", rewards, rewards, cpus, cluster.reward_gpus, memory, cluster.reward_labels),
        Bundle("sampler", cluster.samplers, most, cpus, cluster.sampler_gpus, memory, cluster.sampler_labels),
    )
    return tuple(bundle for bundle in bundles if bundle.most)


def total(bundles: Sequence[Bundle], resource: str, most: bool = False) -> float:
    """How much of a resource ("CPU", "GPU") a run needs to start; or `most` that it can use."""
    return sum((each.most if most else each.least) * each.resources().get(resource, 0.0) for each in bundles)


def _selects(selector: str, label: str | None) -> bool:
    """Ray's label selectors: value, !value, in(value, value) and !in(value, value)."""
    several = re.fullmatch(r"!?in\((.*)\)", selector)
    values = [value.strip() for value in several[1].split(",")] if several else [selector.removeprefix("!")]
    return (label in values) != selector.startswith("!")
