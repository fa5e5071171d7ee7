"""What the head of the cluster knows of a run's places: which workers have none, and which nodes are about to go.

Ray tells both only by its private state, as it does its own libraries; nothing else here uses that (Ray 2.60).
"""

import logging
import math
import time
from collections import Counter
from typing import Any

import ray
from ray._private.state import state

from raypref.cluster.placement import Bundle, Role

logger = logging.getLogger(__name__)

FIRST_WORD = 10.0
"""Seconds without a place until it is said: longer than the start of a process takes, which looks the same."""


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

    def unmet(self) -> str:
        """Which bundles have no place, and what the cluster has; empty where all have one."""
        waiting, told = [self._bundles[actor] for actor in self._waiting], []
        for bundle in {bundle.role: bundle for bundle in waiting}.values():
            number, able = sum(other.role == bundle.role for other in waiting), len(self.able(bundle))
            nodes = f"{able or 'no'} node{'s' if able > 1 else ''}"
            told.append(f"{number} {bundle.role}{'s' if number > 1 else ''} ({bundle}: {nodes} would do)")
        free = ray.available_resources()
        amounts = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
        return f"no place for {', '.join(told)}; free: {amounts}" if told else ""

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
            logger.warning("waiting for %.0f s: %s", now - min(self._waiting.values()), self.unmet())


def actor_id(actor: Any) -> str:
    """As the head names it."""
    return actor._actor_id.hex()
