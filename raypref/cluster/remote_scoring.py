"""A sampler's way to the reward workers."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from raypref.cluster.pool import Quarantined
from raypref.cluster.whereabouts import Whereabouts
from raypref.cluster.wire import pack, unpack
from raypref.train.attendance import Change, Kind
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.runtime import MAX_LOSSES
from raypref.train.sampler import Scoring
from raypref.train.scorer import Judgement
from raypref.train.stopped import StoppedRun


class RemoteScoring(Scoring):
    """Reward workers by their actors' names, those that are there taken in turn; where one fails, the next is asked.

    A worker that dies starts again, where and when there is a place, and keeps nobody waiting who can ask another; one
    that is silent for `timeout` seconds is ended, and does too. One that raises has answered, and stays: errors of
    rewards are caught within (`raypref.train.asked`), so this is the decoder's, or a model that could not be loaded.
    """

    def __init__(self, workers: list[str], timeout: float) -> None:
        self.workers, self.timeout = [ray.get_actor(name) for name in workers], timeout
        self._turns = itertools.cycle(self.workers)
        self._whereabouts: dict[Any, Whereabouts] = {}
        self._coming: dict[Any, tuple[Any, float]] = {}
        """Who is on the way (back): see `_announced`."""
        self._incidents: list[Change] = []

    def load(self) -> None:
        """Nothing: reward workers load theirs, and the driver waits for that."""

    def score(self, request: ScoreRequest) -> Scores:
        return self._ask("score", request)

    def judge(self, request: ScoreRequest) -> Judgement:
        return self._ask("judge", request)

    def incidents(self) -> list[Change]:
        """What became of reward workers since this was last asked."""
        told, self._incidents = self._incidents, []
        return told

    def _ask(self, method: str, request: ScoreRequest) -> Any:
        """The answer of the first worker that gives one.

        Raises:
            Quarantined: where MAX_LOSSES workers gave none.
        """
        packed, losses = pack(request), list[str]()
        kind: Kind
        while len(losses) < MAX_LOSSES:
            worker, place = self._turn(), None
            try:
                place = self._find(worker)
                return unpack(ray.get(getattr(worker, method).remote(packed), timeout=self.timeout))
            except RayTaskError as problem:
                if isinstance(problem.cause, StoppedRun):
                    raise problem.cause from None
                kind, why = "failed", f"raised {problem.cause!r}"
            except GetTimeoutError:
                kind, why = (
                    "lost",
                    f"gave no answer for {self.timeout:g} s (cluster.timeout / 4 and guard.reward_timeout)",
                )
                if self._forget(worker, place):
                    ray.kill(worker, no_restart=False)
            except (RayActorError, ObjectLostError) as problem:
                kind, why = "lost", "died" if place else f"cannot start: {problem}"
                self._forget(worker, place)
            where, words = (str(place), f"; {place.last_words()}") if place else ("still starting", "")
            losses.append(f"{where} {why}{words}")
            self._incidents.append(Change(kind, "reward worker", where, f"{why}; its pictures are scored again{words}"))
        raise Quarantined(
            f"pictures of {request.prompts[0]!r} were with {MAX_LOSSES} reward workers that failed, and are not tried "
            "again.\n" + "\n".join(losses)
        )

    def _turn(self) -> Any:
        """The next worker of those that are there; where none is, whoever is there first. One that has been on its way
        for too long has its turn, too, to be found out."""
        coming = {worker: self._announced(worker) for worker in self.workers if worker not in self._whereabouts}
        arrived = _arrived(coming, len(coming), 0.0)
        for worker, (_, deadline) in coming.items():
            if worker not in arrived and time.monotonic() >= deadline:
                return worker
        there = [worker for worker in self.workers if worker not in coming or worker in arrived]
        there = there or _arrived(coming, 1, self.timeout) or self.workers
        return next(worker for worker in self._turns if worker in there)

    def _announced(self, worker: Any) -> tuple[Any, float]:
        """The answer that a worker gives once it has started, and when it is taken for hung."""
        announced = self._coming.get(worker)
        if announced is None:
            answer = worker.ready.options(max_task_retries=-1).remote()
            announced = self._coming[worker] = answer, time.monotonic() + self.timeout
        return announced

    def _find(self, worker: Any) -> Whereabouts:
        """Where a worker is; waits for one that is on its way."""
        place = self._whereabouts.get(worker)
        if place is None:
            answer, deadline = self._announced(worker)
            try:
                place = self._whereabouts[worker] = ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
            finally:
                self._coming.pop(worker, None)
        return place

    def _forget(self, worker: Any, place: Whereabouts | None) -> bool:
        """Whether nobody has found before that the worker is lost: a sampler has jobs side by side."""
        first = self._whereabouts.get(worker) == place
        if first:
            self._whereabouts.pop(worker, None)
        return first


def _arrived(coming: Mapping[Any, tuple[Any, float]], number: int, timeout: float) -> list[Any]:
    """Up to `number` of those on their way, who have answered within `timeout` seconds."""
    answers = {answer: worker for worker, (answer, _) in coming.items()}
    if not answers:
        return []
    ready, _ = ray.wait(list(answers), num_returns=number, timeout=timeout)
    return [answers[answer] for answer in ready]
