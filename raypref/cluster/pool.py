"""The pool of samplers: jobs wait in one queue, whoever is free pulls the next, a lost worker's jobs go back."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from raypref.train.chunk import Chunk

MAX_ATTEMPTS = 3


@dataclass
class Job:
    """A pure function of (chunk, weights): run again, it gives the same answer."""

    method: str
    """rollout or picture."""
    chunk: Chunk
    weights: Any
    """Reference to packed weights."""
    result: Any = None
    """Reference to the packed answer, once it is there."""
    attempts: int = 0


class Silence(RuntimeError):
    """Nobody answered in time."""


class Pool:
    """Feeds jobs to actors, at most `slots` at a time on each."""

    def __init__(self, actors: list[Any], slots: int, timeout: float) -> None:
        self.actors, self.slots, self.timeout = actors, slots, timeout
        self._queue: deque[Job] = deque()
        self._running: dict[Any, tuple[Job, int, Any]] = {}  # receipt -> job, actor index, result
        self._load: Counter[int] = Counter()

    def submit(self, jobs: list[Job]) -> None:
        """Queues jobs and returns at once."""
        self._queue.extend(jobs)
        self._feed()

    def wait_jobs(self, jobs: list[Job]) -> list[Any]:
        """References to the answers of all jobs, in their order."""
        while any(job.result is None for job in jobs):
            self._pump([])
        return [job.result for job in jobs]

    def wait_other(self, reference: Any) -> Any:
        """The value of a reference that is not the pool's, while the pool goes on."""
        while reference not in self._pump([reference]):
            pass
        return ray.get(reference)

    def _pump(self, others: list[Any]) -> list[Any]:
        """Waits for one thing to happen; the ready ones of `others`.

        Raises:
            Silence: naming what was waited for.
        """
        ready, _ = ray.wait([*others, *self._running], num_returns=1, timeout=self.timeout)
        if not ready:
            names = [job.chunk.name for job, _, _ in self._running.values()] or ["the learner"]
            raise Silence(f"no answer for {self.timeout:g} s from: {'; '.join(names)} (cluster.timeout)")
        for receipt in [reference for reference in ready if reference in self._running]:
            self._settle(receipt)
        self._feed()
        return [reference for reference in ready if reference in others]

    def _settle(self, receipt: Any) -> None:
        job, actor, result = self._running.pop(receipt)
        self._load[actor] -= 1
        try:
            ray.get(receipt)
        except RayActorError as lost:
            if job.attempts >= MAX_ATTEMPTS:
                raise RuntimeError(
                    f"{job.chunk.name} has lost {job.attempts} samplers; the last said: {lost}"
                ) from lost
            self._queue.appendleft(job)
            return
        job.result = result

    def _feed(self) -> None:
        while self._queue:
            actor = min(range(len(self.actors)), key=lambda index: self._load[index])
            if self._load[actor] >= self.slots:
                return
            job = self._queue.popleft()
            job.attempts += 1
            call = getattr(self.actors[actor], job.method).options(num_returns=2)
            result, receipt = call.remote(job.chunk, job.weights)
            self._running[receipt] = (job, actor, result)
            self._load[actor] += 1
