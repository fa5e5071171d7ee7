"""What the head of the cluster knows of a run's places: which workers have none, and which nodes are about to go.

Ray tells both only by its private state, as it does its own libraries; nothing else here uses that (Ray 2.60).
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray._private.state import state
from ray.autoscaler.v2.sdk import get_cluster_status

from raypref.cluster.placement import Bundle, Role
from raypref.core.counted import counted

logger = logging.getLogger(__name__)

FIRST_WORD = 10.0
"""Seconds without a process until it is said: longer than its start takes on a machine that is not busy."""

Shape = frozenset[tuple[str, float]]
"""Amounts by resource."""


def draining_nodes() -> frozenset[str]:
    """Nodes that were announced to go: by a spot notice, `ray drain-node`, or an autoscaler that found them idle."""
    return frozenset(state.get_draining_nodes())


def actors_without_place() -> frozenset[str]:
    """Actors of this driver that no node has given a process yet."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    waiting: dict[str, Any] = {}
    for stage in ("PENDING_CREATION", "RESTARTING"):
        waiting |= state.actor_table(None, job, stage)
    return frozenset(actor for actor, row in waiting.items() if not row["Address"]["Port"])


def unplaced_demand() -> Counter[Shape]:
    """How many actors and tasks of each shape no node has room for, whoever asked. An actor whose process a node is
    starting is not among them."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    found = Counter[Shape]()
    for demand in status.resource_demands.ray_task_actor_demand:
        for each in demand.bundles_by_count:
            found[_shape(each.bundle)] += each.count
    return found


def _shape(resources: Mapping[str, float]) -> Shape:
    """As Ray's demand and a bundle both have it: Ray truncates shares of a GPU, and in a placement group renames."""
    plain = {name.partition("_group_")[0]: round(amount, 3) for name, amount in resources.items()}
    return frozenset((name, amount) for name, amount in plain.items() if name != "bundle")


class Places:
    """The run's workers by the bundles that they need; who waits for a place is said while they wait."""

    interval = 1.0
    """Seconds between two questions to the head."""

    def __init__(self) -> None:
        self.missing: frozenset[str] = frozenset()
        """Actors without a place."""
        self.draining: frozenset[str] = frozenset()
        """Nodes about to go."""
        self._bundles: dict[str, Bundle] = {}
        self._asked, self._waiting = -math.inf, dict[str, float]()  # by actor, since when
        self._said, self._said_at, self._pause = Counter[Role](), 0.0, FIRST_WORD

    def watch(self, actor: Any, bundle: Bundle) -> None:
        """Notes what an actor needs."""
        self._bundles[actor_id(actor)] = bundle

    def refresh(self) -> bool:
        """Asks the head, where it was not asked just before. Whether it did."""
        now = time.monotonic()
        if now - self._asked < self.interval:
            return False
        self._asked = now
        self.missing, self.draining = actors_without_place(), draining_nodes()
        self._waiting = {actor: self._waiting.get(actor, now) for actor in self.missing if actor in self._bundles}
        self._say(now)
        return True

    def overdue(self) -> list[Bundle]:
        """What has had no place for FIRST_WORD seconds, a bundle an actor."""
        now = time.monotonic()
        return [self._bundles[actor] for actor, since in self._waiting.items() if now - since >= FIRST_WORD]

    def alive(self) -> frozenset[str]:
        """The nodes that are there."""
        return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])

    def able(self, bundle: Bundle) -> list[dict[str, Any]]:
        """The nodes that could hold such a worker if they were empty."""
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self.draining]
        return [node for node in nodes if bundle.fits(node["Resources"], node["Labels"])]

    def awaited(self) -> str:
        """Who has no place, and what the cluster has; who has one, and no process yet. Empty where all are there."""
        waiting = sorted((self._bundles[actor] for actor in self._waiting), key=lambda each: len(self.able(each)))
        unplaced, starting = _split(waiting, unplaced_demand())
        told = []
        if unplaced:
            places = [
                f"{number} ({bundle}: {counted(len(self.able(bundle)), 'node').replace('0 nodes', 'no node')} would do)"
                for number, bundle in _by_role(unplaced).items()
            ]
            free = ray.available_resources()
            amounts = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
            told.append(f"no place for {', '.join(places)}; free: {amounts}")
        if starting:
            told.append(f"{', '.join(_by_role(starting))} placed, and still being started by Ray")
        return "; ".join(told)

    def _say(self, now: float) -> None:
        """Who is overdue: when more are, then again after FIRST_WORD seconds, and after twice as many each time."""
        overdue = Counter(bundle.role for bundle in self.overdue())
        more, self._said = overdue - self._said, overdue
        if more:
            self._said_at, self._pause = now, FIRST_WORD
        elif now - self._said_at >= self._pause:
            self._said_at, self._pause = now, 2 * self._pause
        else:
            return
        if overdue:
            logger.warning("waiting for %.0f s: %s", now - min(self._waiting.values()), self.awaited())


def _split(waiting: Sequence[Bundle], demand: Counter[Shape]) -> tuple[list[Bundle], list[Bundle]]:
    """Those without a place, the first of each shape, and those with one."""
    unplaced, starting = list[Bundle](), list[Bundle]()
    for bundle in waiting:
        shape = _shape(bundle.resources())
        (unplaced if demand[shape] else starting).append(bundle)
        demand[shape] -= min(demand[shape], 1)
    return unplaced, starting


def _by_role(bundles: Sequence[Bundle]) -> dict[str, Bundle]:
    """As "2 samplers", with one of them."""
    numbers = Counter(bundle.role for bundle in bundles)
    return {counted(numbers[bundle.role], bundle.role): bundle for bundle in bundles}


def actor_id(actor: Any) -> str:
    """As the head names it."""
    return actor._actor_id.hex()
