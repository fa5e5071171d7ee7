"""The pool: jobs wait in one queue, whichever sampler is free pulls the next, a lost sampler's jobs go back."""

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from raypref.cluster.crew import Crew, Seat
from raypref.train.chunk import Chunk
from raypref.train.runtime import MAX_LOSSES, LearnerLost
from raypref.train.stopped import StoppedRun


class Silence(StoppedRun):
    """Nobody answered in time."""


class Quarantined(StoppedRun):
    """A piece of work that costs one worker after the other."""


class AnswersLost(RuntimeError):
    """Finished answers went with the node that held them."""


@dataclass(eq=False)
class Job:
    """A pure function of its arguments: run again, it gives the same answer."""

    method: str
    """rollout or picture."""
    chunk: Chunk
    arguments: tuple[Any, ...]
    """What follows the chunk: the reference to packed weights first."""
    result: Any = None
    """Reference to the packed answer, once it is there."""
    node: str = ""
    """The node that holds the answer."""
    losses: list[str] = field(default_factory=list)
    """What became of the samplers that were lost over it."""
    wanted: bool = True


@dataclass(frozen=True)
class Running:
    """A job at work."""

    job: Job
    seat: Seat
    slots: int
    result: Any
    deadline: float


class Pool:
    """Feeds jobs to a crew of samplers, at most `slots` at a time on each.

    A sampler that dies, raises, or takes longer than `timeout` seconds for a job is replaced, and its jobs are done
    again. A job that lost a sampler is from then on alone on the next, so that the blame is its own.
    """

    def __init__(self, crew: Crew, slots: int, timeout: float, scoring_timeout: float = 0.0) -> None:
        """A job may take `scoring_timeout` longer than all else: a sampler is not to blame for the reward worker that
        it waits for."""
        self.crew, self.slots, self.timeout, self.scoring_timeout = crew, slots, timeout, scoring_timeout
        self._queue: deque[Job] = deque()
        self._running: dict[Any, Running] = {}  # by receipt
        self._waited = 0  # jobs that found no free slot since the pool last looked around
        self._answered: WeakSet[Job] = WeakSet()
        self._staffed_at = time.monotonic()

    def wait_ready(self) -> None:
        """Returns once as many samplers are at work as the run starts with.

        Raises:
            NobodyLeft: where none can be started.
            Silence: where they have not in time.
        """
        deadline = time.monotonic() + self.timeout
        while len(self.crew.at_work()) < min(self.crew.least, len(self.crew.seats)):
            self._pump([], deadline)
            if time.monotonic() >= deadline:
                ready = f"{len(self.crew.at_work())} of {self.crew.least} samplers"
                raise self._silence(f"{ready} are ready after {self.timeout:g} s (cluster.timeout)")

    def queued(self) -> int:
        """Jobs that nobody has begun."""
        return len(self._queue)

    def submit(self, jobs: list[Job]) -> None:
        """Queues jobs and returns at once."""
        self._queue.extend(jobs)
        self._feed()

    def again(self, jobs: list[Job]) -> None:
        """Queues those once more whose answers went with their node; where no node has gone, all."""
        alive = self.crew.places.alive()
        lost = [job for job in jobs if job.node not in alive] or jobs
        for job in lost:
            job.result = None
        self.submit(lost)

    def forget(self) -> None:
        """Drops all jobs. Those at work come to their end, which nobody awaits."""
        self._queue.clear()
        for running in self._running.values():
            running.job.wanted = False

    def close(self) -> None:
        """Ends all samplers, and lets go of all answers: an object that a living driver keeps also keeps its node."""
        self.crew.close()
        self._queue.clear()
        self._running.clear()

    def wait_jobs(self, jobs: list[Job]) -> list[Any]:
        """References to the answers of all jobs, in their order.

        Raises:
            LearnerLost: where the weights that a job needs are gone with the learner's node.
            Quarantined: where one of them has cost MAX_LOSSES samplers.
            NobodyLeft: where no sampler can be started.
            Silence: where none has had a place for too long.
        """
        while any(job.result is None for job in jobs):
            self._pump([], time.monotonic() + self.timeout)
            if time.monotonic() - self._staffed_at >= self.timeout:
                raise self._silence(f"no sampler has had a place for {self.timeout:g} s (cluster.timeout)")
        return [job.result for job in jobs]

    def wait_other(self, reference: Any, name: str) -> Any:
        """The value of a reference that is not the pool's, while the pool goes on; `name` says whose answer it is.

        Raises:
            AnswersLost: where the work was given answers that were lost.
            Silence: where it is not there in time.
        """
        return self.wait_others([reference], name)[0]

    def wait_others(self, references: list[Any], name: str) -> list[Any]:
        """The same for several, in their order; what is raised by one is not kept waiting by the others."""
        found, awaited, deadline = dict[Any, Any](), list(references), time.monotonic() + self.timeout
        while awaited:
            for reference in self._pump(awaited, deadline):
                found[reference] = self._value(reference)
                awaited.remove(reference)
            if awaited and time.monotonic() >= deadline:
                raise self._silence(f"no answer for {self.timeout:g} s (cluster.timeout) from {name}")
        return [found[reference] for reference in references]

    def _value(self, reference: Any) -> Any:
        try:
            return ray.get(reference, timeout=self.timeout)
        except RayTaskError as problem:
            if isinstance(problem.cause, StoppedRun):
                raise problem.cause from None  # not a failure of the worker: it is for the user
            if isinstance(problem.cause, ObjectLostError):
                raise AnswersLost(str(problem.cause)) from None
            raise

    def _silence(self, problem: str) -> Silence:
        """With who has no place or process yet: it may be the reason."""
        awaited = self.crew.places.awaited()
        return Silence(f"{problem}{awaited and ': '}{awaited}")

    def _pump(self, others: list[Any], deadline: float) -> list[Any]:
        """Waits for one thing to happen, for a deadline, or for the time to look around; the ready ones of `others`."""
        look = time.monotonic() + self.crew.places.interval
        until = min([deadline, look, *(running.deadline for running in self._running.values())])
        awaited = [*others, *self._running, *self.crew.starting]
        ready, late = ray.wait(awaited, num_returns=1, timeout=max(0.0, until - time.monotonic()))
        if late:  # the driver may have been busy elsewhere: who has answered meanwhile is not late
            ready += ray.wait(late, num_returns=len(late), timeout=0)[0]
        for reference in ready:
            if reference in self._running:
                self._settle(reference)
            elif reference in self.crew.starting:
                self.crew.welcome(reference)
        self._replace_late()
        self._look_around()
        self._feed()
        return [reference for reference in ready if reference in others]

    def _settle(self, receipt: Any) -> None:
        running = self._running[receipt]
        try:
            incidents = ray.get(receipt, timeout=self.timeout)
        except RayTaskError as problem:
            if not running.job.wanted:
                self._take_back(receipt)
            elif isinstance(problem.cause, StoppedRun):
                raise problem.cause from None
            elif isinstance(problem.cause, ObjectLostError):
                self._take_back(receipt)
                raise LearnerLost(f"the weights went with the node that held them: {problem.cause}") from None
            else:
                self._replace(running.seat, [running.job], f"raised {problem.cause!r}")
        except RayError as problem:
            # Any of the jobs that it had may be the cause. A node that is taken away is nobody's fault.
            had = [other.job for other in self._running.values() if other.seat is running.seat]
            taken_away = running.seat.leaving or (isinstance(problem, RayActorError) and problem.preempted)
            self._replace(running.seat, [] if taken_away else had, "died")
        else:
            self._take_back(receipt)
            assert running.seat.whereabouts is not None
            running.job.result, running.job.node = running.result, running.seat.whereabouts.node_id
            self._answered.add(running.job)
            for incident in incidents:
                self.crew.register.hear(incident)

    def _replace_late(self) -> None:
        """Replaces whoever is taken for hung."""
        now, limit = time.monotonic(), self.timeout + self.scoring_timeout
        late = f"gave no answer for {limit:g} s (cluster.timeout, and that of a reward worker)"
        for receipt, running in list(self._running.items()):
            if running.deadline <= now and receipt in self._running:  # not replaced just now, for its other job
                self._replace(running.seat, [running.job], late)

    def _replace(self, seat: Seat, blamed: list[Job], why: str) -> None:
        """Ends a sampler, for another, and puts its jobs back."""
        self.crew.lose(seat, f"{why}; its chunks are computed again")
        self._put_back()
        assert seat.whereabouts is not None
        for job in blamed:
            job.losses.append(f"{seat.whereabouts} {why}; {seat.whereabouts.last_words()}")
            if job.wanted and len(job.losses) >= MAX_LOSSES:
                raise Quarantined(
                    f"{job.chunk.name} has cost {MAX_LOSSES} samplers and is not tried again; what was computed before "
                    "is in the run directory.\n" + "\n".join(job.losses)
                )

    def _put_back(self) -> None:
        """The jobs of those who have gone."""
        for receipt in [receipt for receipt, running in self._running.items() if running.seat not in self.crew.seats]:
            job = self._take_back(receipt).job
            if job.wanted:
                self._queue.appendleft(job)

    def _take_back(self, receipt: Any) -> Running:
        running = self._running.pop(receipt)
        running.seat.load -= running.slots
        running.seat.idle_since = time.monotonic()
        return running

    def _look_around(self) -> None:
        """Keeps up with the cluster. Answers on a node that is about to go are copied here."""
        if not self.crew.tend(math.ceil(self._waited / self.slots)):
            return
        self._waited = len(self._queue)
        self._put_back()
        if self.crew.has_place():
            self._staffed_at = time.monotonic()
        leaving = [job.result for job in self._answered if job.result and job.node in self.crew.places.draining]
        if leaving:
            ray.wait(leaving, num_returns=len(leaving), timeout=0)

    def _feed(self) -> None:
        while self._queue:
            # A job that has cost a sampler runs alone: who is lost next is then its own doing.
            slots = self.slots if self._queue[0].losses else 1
            free = [seat for seat in self.crew.at_work() if seat.load + slots <= self.slots]
            if not free:
                self._waited = max(self._waited, len(self._queue))
                return
            self._start(self._queue.popleft(), min(free, key=lambda seat: seat.load), slots)

    def _start(self, job: Job, seat: Seat, slots: int) -> None:
        call = getattr(seat.actor, job.method).options(num_returns=2)
        result, receipt = call.remote(job.chunk, *job.arguments)
        deadline = time.monotonic() + self.timeout + self.scoring_timeout
        self._running[receipt] = Running(job, seat, slots, result, deadline)
        seat.load += slots
