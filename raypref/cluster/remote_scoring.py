"""A sampler's way to the reward workers."""

import itertools
import logging
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from raypref.cluster.pool import MAX_LOSSES, Quarantined
from raypref.cluster.wire import pack, unpack
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.sampler import Scoring
from raypref.train.scorer import Judgement
from raypref.train.stopped import StoppedRun

logger = logging.getLogger(__name__)


class RemoteScoring(Scoring):
    """Reward workers by their actors' names, taken in turn; where one fails, the next is asked.

    A worker that dies, raises, or is silent for `timeout` seconds is replaced by a fresh one. Errors of the reward
    itself are not among these: see `raypref.rewards`.
    """

    def __init__(self, workers: list[str], timeout: float) -> None:
        self.turns, self.timeout = itertools.cycle([ray.get_actor(name) for name in workers]), timeout

    def score(self, request: ScoreRequest) -> Scores:
        return self._ask("score", request)

    def judge(self, request: ScoreRequest) -> Judgement:
        return self._ask("judge", request)

    def _ask(self, method: str, request: ScoreRequest) -> Any:
        """The answer of the first worker that gives one.

        Raises:
            Quarantined: where MAX_LOSSES workers gave none.
        """
        packed, losses = pack(request), list[str]()
        while len(losses) < MAX_LOSSES:
            worker = next(self.turns)
            try:
                if losses:  # perhaps this one was lost too: wait until it is back
                    ray.get(worker.ready.options(max_task_retries=-1).remote(), timeout=self.timeout)
                return unpack(ray.get(getattr(worker, method).remote(packed), timeout=self.timeout))
            except RayTaskError as problem:
                if isinstance(problem.cause, StoppedRun):
                    raise problem.cause from None
                losses.append(f"raised {problem.cause!r}")
                ray.kill(worker, no_restart=False)
            except RayActorError as problem:
                losses.append(f"died: {problem}")
            except GetTimeoutError:
                losses.append(f"gave no answer for {self.timeout:g} s (a quarter of cluster.timeout)")
                ray.kill(worker, no_restart=False)
            logger.warning("a reward worker %s; its pictures are scored again", losses[-1])
        raise Quarantined(
            f"pictures of {request.prompts[0]!r} have cost {MAX_LOSSES} reward workers and are not tried again. "
            f"One worker after the other {'; '.join(losses)}"
        )
