"""The samplers of a run: asked for, admitted, sent away, replaced. What they work at is the pool's affair."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from raypref.cluster.placement import Bundle
from raypref.cluster.places import Places, actor_id
from raypref.cluster.register import Register
from raypref.cluster.whereabouts import Whereabouts
from raypref.train.attendance import Change, Kind
from raypref.train.runtime import MAX_LOSSES
from raypref.train.stopped import StoppedRun


class NobodyLeft(StoppedRun):
    """No sampler can be started."""


@dataclass(eq=False)
class Seat:
    """A sampler, from when it is asked for until it has gone. Its actor never restarts: another is asked for."""

    actor: Any
    failed_starts: int
    """Of those before it, one after the other."""
    whereabouts: Whereabouts | None = None
    """None until it has loaded its model."""
    at_work: bool = False
    """Admitted, and to be given jobs."""
    leaving: bool = False
    """Its node is about to go: it does what it has begun, and no more."""
    load: int = 0
    """Slots in use."""
    deadline: float = math.inf
    """Of its start, once it has a place."""
    idle_since: float = field(default_factory=time.monotonic)


class Crew:
    """At least `least` samplers, and up to `most` while there is work for them.

    They are asked for as actors, so that an autoscaler sees what is wanted; who gets no place waits, and keeps nobody
    else waiting. Who has loaded its model when the run has begun proves the newest weights before it is admitted.
    """

    def __init__(self, spawn: Callable[[], Any], least: int, most: int, timeout: float, idle_timeout: float) -> None:
        """`spawn` makes an actor, which may take `timeout` seconds to start, once it has a place."""
        self.spawn, self.least, self.most = spawn, least, most
        self.timeout, self.idle_timeout = timeout, idle_timeout
        self.places, self.register = Places(), Register()
        self.newest_weights: Callable[[], Any] = lambda: None
        """A reference to what joiners have to prove; None before the run begins."""
        self.seats: list[Seat] = []
        self.starting: dict[Any, Seat] = {}
        """By the answer that is awaited."""

    def ask(self, number: int, failed_starts: int = 0) -> None:
        """Asks for samplers."""
        for _ in range(number):
            seat = Seat(self.spawn(), failed_starts)
            self.seats.append(seat)
            self.starting[seat.actor.ready.remote()] = seat

    def at_work(self) -> list[Seat]:
        """Those that may be given jobs."""
        return [seat for seat in self.seats if seat.at_work]

    def has_place(self) -> bool:
        """Whether anybody is at work, or about to be."""
        return any(seat.at_work or seat.deadline < math.inf for seat in self.seats)

    def welcome(self, answer: Any) -> None:
        """A sampler has loaded its model, or proved the newest weights, or was lost before.

        Raises:
            NobodyLeft: where it was the last that could be started.
            StoppedRun: where its rewards cannot be loaded.
        """
        seat = self.starting.pop(answer)
        try:
            found = ray.get(answer, timeout=self.timeout)
        except RayError as problem:
            if isinstance(problem, RayTaskError) and isinstance(problem.cause, StoppedRun) and not seat.whereabouts:
                raise problem.cause from None  # its rewards cannot be loaded: no other sampler would fare better
            self._start_failed(seat, str(problem))
            return
        weights = self.newest_weights() if seat.whereabouts is None else None
        seat.whereabouts = seat.whereabouts or found
        if weights is not None:
            self.starting[seat.actor.prove.remote(weights)] = seat
            return
        seat.at_work, seat.idle_since = True, time.monotonic()
        self._count()
        self._note("joined", seat, f"{len(self.at_work())} of up to {self.most} are at work")

    def lose(self, seat: Seat, why: str) -> None:
        """A sampler is dead, or as good as dead: another is asked for."""
        self._remove(seat)
        self._note("lost", seat, why)
        if not seat.leaving:  # else another has been asked for
            self.ask(1)

    def tend(self, wanted: int) -> bool:
        """Keeps up with the cluster; there is work for `wanted` more. False where it has just done so.

        Raises:
            NobodyLeft: as `welcome`.
        """
        if not self.places.refresh():
            return False
        begun, now = self.newest_weights() is not None, time.monotonic()
        for seat in self.seats:
            if not begun or (wanted and not seat.at_work):  # not idle, although it does nothing
                seat.idle_since = now
        for seat in list(self.starting.values()):
            self._watch_start(seat)
        for seat in list(self.seats):
            self._watch_node(seat)
        needed = [bundle for bundle in self.places.overdue() if bundle.role != "sampler"]
        if needed:
            self._give_way(needed[0])
        else:
            self._send_idle_away()
            room = self.most - sum(not seat.leaving for seat in self.seats)
            self.ask(max(0, min(room, wanted - len(self.starting))))
        return True

    def close(self) -> None:
        """Ends all samplers."""
        for seat in self.seats:
            ray.kill(seat.actor)

    def _watch_start(self, seat: Seat) -> None:
        """The clock of a start runs from when there is a place."""
        now = time.monotonic()
        if actor_id(seat.actor) in self.places.missing:
            seat.deadline = math.inf
        elif seat.deadline == math.inf:
            seat.deadline = now + self.timeout
        elif now >= seat.deadline:
            self._start_failed(seat, f"it took longer than {self.timeout:g} s (cluster.timeout)")

    def _watch_node(self, seat: Seat) -> None:
        """Who is on a node that is about to go does what it has begun; another is asked for at once."""
        going = seat.whereabouts is not None and seat.whereabouts.node_id in self.places.draining
        if going and not seat.leaving:
            seat.leaving, seat.at_work = True, False
            self.ask(1)
            self._count()
        if seat.leaving and not seat.load:
            self._send_away(seat, "its node is about to go")

    def _send_idle_away(self) -> None:
        """Who had no work for too long, beyond those that the run keeps; the last to come first."""
        for seat in self._spare():
            idle = time.monotonic() - seat.idle_since
            if not seat.load and idle >= self.idle_timeout:
                self._send_away(seat, f"no work for {idle:.0f} s")

    def _give_way(self, bundle: Bundle) -> None:
        """A run stands still without its learner or a reward worker. Where one waits, those beyond `least` that wait
        too, or have just been given its place, go at once; then, one by one, those on nodes that would do."""
        able = {node["NodeID"] for node in self.places.able(bundle)}
        for seat in self._spare():
            if seat.whereabouts is None:
                self._send_away(seat, f"the {bundle.role} needs its place")
            elif seat.whereabouts.node_id in able:
                self._send_away(seat, f"the {bundle.role} needs its place")
                return

    def _spare(self) -> list[Seat]:
        """Those beyond `least`: who is not yet at work before who is, the last to come first."""
        present = [seat for seat in self.seats if not seat.leaving]
        return sorted(present, key=lambda seat: not seat.at_work)[self.least :][::-1]

    def _send_away(self, seat: Seat, why: str) -> None:
        self._remove(seat)
        if seat.at_work or seat.leaving:
            self._note("left", seat, why)

    def _start_failed(self, seat: Seat, why: str) -> None:
        self._remove(seat)
        if seat.leaving:
            return
        if seat.failed_starts + 1 < MAX_LOSSES:
            self._note("lost", seat, f"was lost while it started; another is asked for: {why}")
            self.ask(1, seat.failed_starts + 1)
            return
        if not self.seats:
            raise NobodyLeft(f"no sampler can be started: {why}")
        self.most -= 1
        self.least = min(self.least, self.most)
        self._note("lost", seat, f"was the {MAX_LOSSES}rd in a row that could not be started; the others go on: {why}")

    def _remove(self, seat: Seat) -> None:
        ray.kill(seat.actor)
        self.seats.remove(seat)
        self.starting = {answer: other for answer, other in self.starting.items() if other is not seat}
        self._count()

    def _count(self) -> None:
        self.register.count(len(self.at_work()))

    def _note(self, kind: Kind, seat: Seat, why: str) -> None:
        self.register.note(Change(kind, "sampler", str(seat.whereabouts or "still starting"), why))
