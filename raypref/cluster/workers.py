"""The three roles as actors: plain classes that pack and unpack; `ray.remote` is applied where they are spawned."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import ray

from raypref.cluster.wire import pack, unpack
from raypref.core.search import Search
from raypref.train.build import build_learner, build_sampler, build_scorer
from raypref.train.chunk import Chunk
from raypref.train.experiment import Experiment
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.sampler import Scoring
from raypref.train.scorer import Judgement
from raypref.train.state import learner_state, restore_learner, roll_back

Packed = Any


class ScorerWorker:
    """A reward worker: decodes and scores. Stateless, so a lost call is simply made again."""

    def __init__(self, experiment: Experiment) -> None:
        self.scorer = build_scorer(experiment)

    def ready(self) -> bool:
        return True

    def score(self, request: Packed) -> Packed:
        return pack(self.scorer.score(unpack(request)))

    def judge(self, request: Packed) -> Packed:
        return pack(self.scorer.judge(unpack(request)))


class RemoteScoring(Scoring):
    """Reward workers by their actors' names, taken in turn."""

    def __init__(self, workers: list[str], timeout: float) -> None:
        # Half the driver's patience: the sampler's error, which knows the cause, comes first.
        self.turns, self.timeout = itertools.cycle([ray.get_actor(name) for name in workers]), timeout / 2

    def score(self, request: ScoreRequest) -> Scores:
        return self._get(next(self.turns).score.remote(pack(request)))

    def judge(self, request: ScoreRequest) -> Judgement:
        return self._get(next(self.turns).judge.remote(pack(request)))

    def _get(self, reference: Any) -> Any:
        try:
            return unpack(ray.get(reference, timeout=self.timeout))
        except ray.exceptions.GetTimeoutError:
            raise TimeoutError(
                f"a reward worker gave no answer for {self.timeout:g} s (half of cluster.timeout): is it that slow?"
            ) from None


class SamplerWorker:
    """A sampler. Every job returns (result, receipt): the result goes to whoever needs it, the receipt tells the driver
    that it is there without pulling it over."""

    def __init__(self, experiment: Experiment, scorers: list[str]) -> None:
        self.sampler = build_sampler(experiment, RemoteScoring(scorers, experiment.cluster.timeout))

    def ready(self) -> bool:
        return True

    def rollout(self, chunk: Chunk, weights: Packed) -> tuple[Packed, str]:
        return pack(self.sampler.rollout(chunk, unpack(weights))), chunk.name

    def picture(self, chunk: Chunk, weights: Packed, search: Search | None) -> tuple[Packed, str]:
        return pack(self.sampler.picture(chunk, unpack(weights), search)), chunk.name


class LearnerWorker:
    """The learner."""

    def __init__(self, experiment: Experiment) -> None:
        self.learner = build_learner(experiment)

    def ready(self) -> bool:
        return True

    def update(self, iteration: int, *sampled: Packed) -> Packed:
        return pack(self.learner.update(iteration, [unpack(part) for part in sampled]))

    def weights(self, version: int) -> Packed:
        return pack(self.learner.weights(version))

    def state(self) -> Packed:
        return pack(learner_state(self.learner))

    def restore(self, state: Packed) -> bool:
        restore_learner(self.learner, unpack(state))
        return True

    def roll_back(self, state: Packed, version: int) -> bool:
        roll_back(self.learner, unpack(state), version)
        return True

    def lora_files(self) -> dict[str, bytes]:
        """The exported adapter by file name: the driver's disk may be another machine's."""
        with tempfile.TemporaryDirectory() as folder:
            self.learner.export_lora(Path(folder))
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
