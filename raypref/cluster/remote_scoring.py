"""A sampler's way to the reward workers."""

import itertools
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
    """Reward workers by their actors' names, taken in turn; where one fails, the next is asked.

    A worker that dies starts again; one that is silent for `timeout` seconds is ended, and does too. One that raises
    has answered, and stays: errors of rewards are caught within (`raypref.train.asked`), so this is the decoder's, or
    a model that could not be loaded.
    """

    def __init__(self, workers: list[str], timeout: float) -> None:
        self.turns, self.timeout = itertools.cycle([ray.get_actor(name) for name in workers]), timeout
        self._whereabouts: dict[Any, Whereabouts] = {}
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
            worker, place = next(self.turns), None
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

    def _find(self, worker: Any) -> Whereabouts:
        """Where a worker is; waits for one that is on its way back."""
        if worker not in self._whereabouts:
            answer = worker.ready.options(max_task_retries=-1).remote()
            self._whereabouts[worker] = ray.get(answer, timeout=self.timeout)
        return self._whereabouts[worker]

    def _forget(self, worker: Any, place: Whereabouts | None) -> bool:
        """Whether nobody has found before that the worker is lost: a sampler has jobs side by side."""
        first = self._whereabouts.get(worker) == place
        if first:
            self._whereabouts.pop(worker, None)
        return first
