"""The learner as the driver sees it: its ranks are started, asked and lost together."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError

from raypref.cluster.pool import Pool, Silence
from raypref.cluster.process_group import RankLost
from raypref.train.attendance import Change
from raypref.train.runtime import MAX_LOSSES, LearnerLost

Found = TypeVar("Found")

OF_THE_FIRST = ("deployed", "state", "exported_files")
"""What the first rank can answer for all, which are its copies. All else changes them, and all are asked."""
STANDINGS = DEAD, SILENT, AT_WORK, WAITING = (
    "is dead",
    "gives no sign of life",
    "is at work",
    "waits for the others",
)
PATIENCE = 5.0
"""Seconds in which a rank that is alive says what it is at, even while it computes."""


class LearnerGroup:
    """One rank, or several that share the work of every update: see `raypref.train.ranks`. They are actors that never
    restart: a fresh learner that answered in the place of a trained one would go unnoticed."""

    def __init__(self, spawn: Callable[[], Any], ranks: int, pool: Pool) -> None:
        self.spawn, self.ranks, self.pool, self.register = spawn, ranks, pool, pool.crew.register
        self.lost = False
        self._spawn_all()

    def wait_ready(self) -> None:
        """Returns once all ranks have loaded their model: the first ones, or those that take their place.

        Raises:
            LearnerLost: where MAX_LOSSES in a row were lost while they started.
            Silence: where they did not start in time.
        """
        for attempt in range(1, MAX_LOSSES + 1):
            try:
                self._assemble()
                return
            except Silence as problem:
                raise Silence(self._blame(problem)[1]) from None
            except (RayActorError, RankLost) as problem:
                if attempt == MAX_LOSSES:
                    raise LearnerLost(f"no learner can be started: {problem}") from problem
                why = f"was lost while it started; another is started: {problem}"
                self.register.note(Change("lost", "learner", "still starting", why))
                self.close()
                self._spawn_all()

    def restart(self) -> None:
        """Other ranks in the place of those that were lost.

        Raises:
            LearnerLost: where they are lost, too.
        """
        self.close()
        self._spawn_all()
        self.lost = False
        self._or_lost(self._assemble)

    def ask(self, method: str, *arguments: Any, versions: Sequence[int] = ()) -> tuple[Any, dict[int, Any]]:
        """The first rank's answer, and references to versions of the weights that come with it.

        Raises:
            LearnerLost: where a rank died, or they were silent for cluster.timeout seconds.
        """
        first, others = self.actors[0], [] if method in OF_THE_FIRST else self.actors[1:]
        references = getattr(first, method).options(num_returns=1 + len(versions)).remote(*arguments)
        answer, *weights = references if versions else [references]
        following = [actor.follow.remote(method, *arguments) for actor in others]
        value, *_ = self._or_lost(lambda: self.pool.wait_others([answer, *following], "the learner"))
        return value, dict(zip(versions, weights, strict=True))

    def close(self) -> None:
        """Ends all ranks."""
        for actor in self.actors:
            ray.kill(actor)

    def _spawn_all(self) -> None:
        self.actors = [self.spawn() for _ in range(self.ranks)]
        self._names = [self._name(rank, "still starting") for rank in range(self.ranks)]

    def _name(self, rank: int, place: object) -> str:
        return str(place) if self.ranks == 1 else f"rank {rank}, {place}"

    def _assemble(self) -> None:
        """Returns once all ranks have loaded their model and are one learner."""
        starting, waited = [actor.ready.remote() for actor in self.actors], "the learner's start"
        for rank, place in enumerate(self.pool.wait_others(starting, waited)):
            self._names[rank] = self._name(rank, place)
            self.register.note(Change("joined", "learner", self._names[rank], "it has loaded its model"))
        if self.ranks > 1:
            meeting = self.pool.wait_other(self.actors[0].invite.remote(), waited)
            joining = [actor.join.remote(rank, self.ranks, meeting) for rank, actor in enumerate(self.actors)]
            self.pool.wait_others(joining, "the meeting of the learner's ranks")

    def _or_lost(self, answer: Callable[[], Found]) -> Found:
        try:
            return answer()
        except LearnerLost:  # the pool, for weights that are gone: the ranks may still be at what they were asked
            self.lost = True
            raise
        except (RayActorError, ObjectLostError, GetTimeoutError, Silence, RankLost) as problem:
            self.lost = True
            who, why = self._blame(problem)
            self.register.keep(Change("lost", "learner", who, why))
            raise LearnerLost(f"the learner is lost: {why}") from problem

    def _blame(self, problem: Exception) -> tuple[str, str]:
        """Who is to blame for the loss of all, and what is known of it. Of several ranks one may be dead, silent or
        slow while the others wait for it."""
        if self.ranks == 1:
            return self._names[0], str(problem)
        asked = [actor.is_waiting.remote() for actor in self.actors]
        ray.wait(asked, num_returns=len(asked), timeout=PATIENCE)
        said = {name: _said(reference) for name, reference in zip(self._names, asked, strict=True)}
        worst = min(said.values(), key=STANDINGS.index)
        told = "; ".join(f"{name}, {standing}" for name, standing in said.items())
        return " and ".join(name for name, standing in said.items() if standing == worst), f"{told} ({problem})"


def _said(reference: Any) -> str:
    """What a rank is at: one of STANDINGS."""
    try:
        return WAITING if ray.get(reference, timeout=0) else AT_WORK
    except GetTimeoutError:
        return SILENT
    except RayActorError:
        return DEAD
