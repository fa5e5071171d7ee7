"""The pool of samplers: jobs wait in one queue, whoever is free pulls the next, a lost worker's jobs go back."""

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from raypref.cluster.whereabouts import Whereabouts
from raypref.train.chunk import Chunk
from raypref.train.stopped import StoppedRun

MAX_LOSSES = 3
"""Workers that one piece of work may cost."""

logger = logging.getLogger(__name__)


class Silence(StoppedRun):
    """Nobody answered in time."""


class Quarantined(StoppedRun):
    """A chunk that costs one worker after the other."""


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
    losses: list[str] = field(default_factory=list)
    """What became of the samplers that were lost over it."""
    wanted: bool = True


@dataclass
class Seat:
    """A sampler and what is known of it."""

    actor: Any
    whereabouts: Whereabouts
    load: int = 0
    """Slots in use."""
    lost: bool = False
    """Gets no job before it has answered a ping."""


@dataclass(frozen=True)
class Running:
    """A job at work."""

    job: Job
    seat: Seat
    slots: int
    result: Any
    deadline: float


class Pool:
    """Feeds jobs to samplers, at most `slots` at a time on each.

    A sampler that dies, raises, or is silent for `timeout` seconds is replaced by a fresh one (its actor restarts), and
    its jobs are done again. A job that lost a sampler is from then on alone on the next, so that the blame is its own.
    """

    def __init__(self, actors: list[Any], whereabouts: list[Whereabouts], slots: int, timeout: float) -> None:
        self.seats = [Seat(actor, place) for actor, place in zip(actors, whereabouts, strict=True)]
        self.slots, self.timeout = slots, timeout
        self._queue: deque[Job] = deque()
        self._running: dict[Any, Running] = {}  # by receipt
        self._pings: dict[Any, Seat] = {}

    def submit(self, jobs: list[Job]) -> None:
        """Queues jobs and returns at once."""
        self._queue.extend(jobs)
        self._feed()

    def forget(self) -> None:
        """Drops all jobs. Those at work come to their end, which nobody awaits."""
        self._queue.clear()
        for running in self._running.values():
            running.job.wanted = False

    def wait_jobs(self, jobs: list[Job]) -> list[Any]:
        """References to the answers of all jobs, in their order.

        Raises:
            ObjectLostError: where the weights that a job needs are gone with the learner's node.
            Quarantined: where one of them has cost MAX_LOSSES samplers.
            Silence: where every sampler is lost and none came back in time.
        """
        while any(job.result is None for job in jobs):
            self._pump([], time.monotonic() + self.timeout)
        return [job.result for job in jobs]

    def wait_other(self, reference: Any, name: str) -> Any:
        """The value of a reference that is not the pool's, while the pool goes on; `name` says whose answer it is.

        Raises:
            Silence: where it is not there in time.
        """
        deadline = time.monotonic() + self.timeout
        while reference not in self._pump([reference], deadline, name):
            pass
        try:
            return ray.get(reference, timeout=self.timeout)
        except RayTaskError as problem:
            if isinstance(problem.cause, StoppedRun | ObjectLostError):
                raise problem.cause from None  # not a failure of the worker: the user's or the driver's concern
            raise

    def _pump(self, others: list[Any], deadline: float, name: str = "") -> list[Any]:
        """Waits for one thing to happen; the ready ones of `others`."""
        until = min([deadline, *(running.deadline for running in self._running.values())])
        awaited = [*others, *self._running, *self._pings]
        ready, _ = ray.wait(awaited, num_returns=1, timeout=max(0.0, until - time.monotonic()))
        for reference in ready:
            if reference in self._running:
                self._settle(reference)
            elif reference in self._pings:
                self._welcome(reference)
        if not ready:
            self._replace_silent()
            if time.monotonic() >= deadline:
                waiting = [name] if name else []
                waiting += [f"a sampler that was {seat.whereabouts} and is lost" for seat in self._pings.values()]
                raise Silence(f"no answer for {self.timeout:g} s (cluster.timeout) from {'; '.join(waiting)}")
        self._feed()
        return [reference for reference in ready if reference in others]

    def _settle(self, receipt: Any) -> None:
        running = self._running[receipt]
        try:
            ray.get(receipt, timeout=self.timeout)
        except RayTaskError as problem:
            if isinstance(problem.cause, StoppedRun | ObjectLostError):
                raise problem.cause from None
            self._replace(running.seat, [running.job], f"raised {problem.cause!r}")
            ray.kill(running.seat.actor, no_restart=False)
        except RayActorError as problem:
            # Any of the jobs that it had may be the cause. A node that is taken away is nobody's fault.
            had = [other.job for other in self._running.values() if other.seat is running.seat]
            self._replace(running.seat, [] if problem.preempted else had, "died")
        else:
            self._take_back(receipt)
            running.job.result = running.result

    def _replace_silent(self) -> None:
        now = time.monotonic()
        for running in [late for late in self._running.values() if late.deadline <= now]:
            if not running.seat.lost:
                self._replace(running.seat, [running.job], f"gave no answer for {self.timeout:g} s (cluster.timeout)")
                ray.kill(running.seat.actor, no_restart=False)

    def _replace(self, seat: Seat, blamed: list[Job], why: str) -> None:
        """Puts a sampler's jobs back, and gives it none until its fresh process answers."""
        seat.lost = True
        for receipt in [receipt for receipt, running in self._running.items() if running.seat is seat]:
            job = self._take_back(receipt).job
            if job.wanted:
                self._queue.appendleft(job)
        logger.warning("a sampler, %s, %s; its chunks are computed again", seat.whereabouts, why)
        for job in blamed:
            job.losses.append(f"{seat.whereabouts} {why}; {seat.whereabouts.last_words()}")
            if len(job.losses) >= MAX_LOSSES:
                raise Quarantined(
                    f"{job.chunk.name} has cost {MAX_LOSSES} samplers and is not tried again; what was computed before "
                    "is in the run directory.\n" + "\n".join(job.losses)
                )
        self._pings[seat.actor.ready.options(max_task_retries=-1).remote()] = seat

    def _take_back(self, receipt: Any) -> Running:
        running = self._running.pop(receipt)
        running.seat.load -= running.slots
        return running

    def _welcome(self, ping: Any) -> None:
        """A lost sampler has restarted and loaded its model, or never will."""
        seat = self._pings.pop(ping)
        try:
            seat.whereabouts = ray.get(ping, timeout=self.timeout)
        except RayActorError:
            self.seats.remove(seat)
            if not self.seats:
                raise
            logger.warning("the sampler that was %s cannot start again; %d go on", seat.whereabouts, len(self.seats))
        else:
            seat.lost = False

    def _feed(self) -> None:
        while self._queue:
            # A job that has cost a sampler runs alone: who is lost next is then its own doing.
            slots = self.slots if self._queue[0].losses else 1
            free = [seat for seat in self.seats if not seat.lost and seat.load + slots <= self.slots]
            if not free:
                return
            self._start(self._queue.popleft(), min(free, key=lambda seat: seat.load), slots)

    def _start(self, job: Job, seat: Seat, slots: int) -> None:
        call = getattr(seat.actor, job.method).options(num_returns=2)
        result, receipt = call.remote(job.chunk, *job.arguments)
        self._running[receipt] = Running(job, seat, slots, result, time.monotonic() + self.timeout)
        seat.load += slots
