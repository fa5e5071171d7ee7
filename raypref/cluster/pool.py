"""The pool of samplers: jobs wait in one queue, whoever is free pulls the next, a lost worker's jobs go back."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from raypref.train.chunk import Chunk
from raypref.train.stopped import StoppedRun

MAX_ATTEMPTS = 3


@dataclass
class Job:
    """A pure function of its arguments: run again, it gives the same answer."""

    method: str
    """rollout or picture."""
    chunk: Chunk
    arguments: tuple[Any, ...]
    """What follows the chunk: the reference to packed weights first."""
    result: Any = None
    """Reference to the packed answer, once it is there."""
    attempts: int = 0


class Silence(RuntimeError):
    """Nobody answered in time."""


class Pool:
    """Feeds jobs to actors, at most `slots` at a time on each; a lost actor gets none until it answers a ping."""

    def __init__(self, actors: list[Any], slots: int, timeout: float) -> None:
        self.actors, self.slots, self.timeout = actors, slots, timeout
        self._queue: deque[Job] = deque()
        self._running: dict[Any, tuple[Job, int, Any]] = {}  # receipt -> job, actor index, result
        self._pings: dict[Any, int] = {}  # ping -> actor index, of actors that were lost
        self._load: Counter[int] = Counter()

    def submit(self, jobs: list[Job]) -> None:
        """Queues jobs and returns at once."""
        self._queue.extend(jobs)
        self._feed()

    def wait_jobs(self, jobs: list[Job]) -> list[Any]:
        """References to the answers of all jobs, in their order."""
        while any(job.result is None for job in jobs):
            self._pump([], "")
        return [job.result for job in jobs]

    def wait_other(self, reference: Any, name: str) -> Any:
        """The value of a reference that is not the pool's, while the pool goes on; `name` says whose answer it is."""
        while reference not in self._pump([reference], name):
            pass
        try:
            return ray.get(reference)
        except RayTaskError as problem:
            if isinstance(problem.cause, StoppedRun):
                raise problem.cause from None  # it is a message to the user, not a failure of the worker
            raise

    def _pump(self, others: list[Any], name: str) -> list[Any]:
        """Waits for one thing to happen; the ready ones of `others`.

        Raises:
            Silence: naming what was waited for.
        """
        ready, _ = ray.wait([*others, *self._running, *self._pings], num_returns=1, timeout=self.timeout)
        if not ready:
            waiting = ([name] if name else []) + [job.chunk.name for job, _, _ in self._running.values()]
            waiting += [f"sampler {actor}, lost and not back" for actor in self._pings.values()]
            raise Silence(f"no answer for {self.timeout:g} s from: {'; '.join(waiting)} (cluster.timeout)")
        for reference in ready:
            if reference in self._running:
                self._settle(reference)
            elif reference in self._pings:
                self._welcome(reference)
        self._feed()
        return [reference for reference in ready if reference in others]

    def _settle(self, receipt: Any) -> None:
        job, actor, result = self._running.pop(receipt)
        self._load[actor] -= 1
        try:
            ray.get(receipt)
        except RayTaskError:  # raised inside the job, even where its cause is another actor's death
            raise
        except RayActorError as lost:
            if job.attempts >= MAX_ATTEMPTS:
                raise RuntimeError(
                    f"{job.chunk.name} has lost {job.attempts} samplers; the last said: {lost}"
                ) from lost
            self._queue.appendleft(job)
            self._ping(actor)
            return
        job.result = result

    def _ping(self, actor: int) -> None:
        if actor not in self._pings.values():
            self._pings[self.actors[actor].ready.options(max_task_retries=-1).remote()] = actor

    def _welcome(self, ping: Any) -> None:
        """A lost actor has restarted and loaded its model; an error here means that it never will."""
        ray.get(ping)
        del self._pings[ping]

    def _feed(self) -> None:
        while self._queue:
            present = [index for index in range(len(self.actors)) if index not in self._pings.values()]
            free = [index for index in present if self._load[index] < self.slots]
            if not free:
                return
            actor = min(free, key=lambda index: self._load[index])
            job = self._queue.popleft()
            job.attempts += 1
            call = getattr(self.actors[actor], job.method).options(num_returns=2)
            result, receipt = call.remote(job.chunk, *job.arguments)
            self._running[receipt] = (job, actor, result)
            self._load[actor] += 1
