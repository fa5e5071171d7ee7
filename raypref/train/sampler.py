"""The sampler's work: roll out chunks with a given version of the weights, several of them interleaved."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TypeVar

from raypref.core.search import Search
from raypref.core.types import Rollout
from raypref.core.weights import Weights
from raypref.models.base import Denoiser
from raypref.train.chunk import Chunk
from raypref.train.experiment import SamplingConfig
from raypref.train.rollout import ScoreRequest, Scores, Walk, best_of_n, explore, finish
from raypref.train.scorer import Judgement

Found = TypeVar("Found")


class Scoring(ABC):
    """Whoever answers score requests: a Scorer in this process, or reward workers elsewhere."""

    @abstractmethod
    def score(self, request: ScoreRequest) -> Scores: ...

    @abstractmethod
    def judge(self, request: ScoreRequest) -> Judgement: ...


@dataclass(frozen=True)
class SampledRollout:
    """A rollout and what it cost."""

    rollout: Rollout
    seconds_denoising: float
    seconds_scoring: float


class Sampler:
    """A denoiser that rolls out chunks. Threads may call it at once: one denoises while the others wait for scores."""

    def __init__(self, denoiser: Denoiser, sampling: SamplingConfig, search: Search, scoring: Scoring) -> None:
        self.denoiser, self.search, self.scoring = denoiser, search, scoring
        self.process = sampling.process(denoiser.schedule)
        self.guidance_scale = sampling.guidance_scale
        self._network = threading.Lock()

    def rollout(self, chunk: Chunk, weights: Weights) -> SampledRollout:
        """Searches from the chunk's prompts with exactly these weights."""
        return SampledRollout(*self._drive(explore(self._walk(chunk), self.search), weights))

    def picture(self, chunk: Chunk, weights: Weights, search: Search | None = None) -> Judgement:
        """Finished pictures of the chunk's prompts, judged; with the scores of what was predicted on the way.

        With a `search`, trajectories follow its choices (step-wise best-of-N) and nothing on the way is reported.
        """
        walk = self._walk(chunk)
        if search is not None:
            x_0 = self._drive(best_of_n(walk, search), weights)[0]
            return self.scoring.judge(walk.request({len(self.process): x_0[None]}))
        with self._network:
            self._use(weights)
            x_0, predicted = finish(walk, self.search.recorded())
        judgement = self.scoring.judge(walk.request({len(self.process): x_0[None]}))
        if not predicted:
            return judgement
        answers = walk.answers(predicted, self.scoring.score(walk.request(predicted)))
        by_step = {step - 1: scores[0, :, 0] for step, scores in answers.items()}
        return replace(judgement, score_by_step=by_step)

    def _drive(self, search: Generator[ScoreRequest, Scores, Found], weights: Weights) -> tuple[Found, float, float]:
        """What a search finds, and the seconds of denoising and of scoring."""
        denoising = scoring = 0.0
        scores: Scores | None = None
        while True:
            with self._network:
                self._use(weights)
                started = time.perf_counter()
                try:
                    request = next(search) if scores is None else search.send(scores)
                except StopIteration as done:
                    denoising += time.perf_counter() - started
                    return done.value, denoising, scoring
                denoising += time.perf_counter() - started
            started = time.perf_counter()
            scores = self.scoring.score(request)
            scoring += time.perf_counter() - started

    def _walk(self, chunk: Chunk) -> Walk:
        return Walk(self.denoiser, self.process, chunk, self.guidance_scale)

    def _use(self, weights: Weights) -> None:
        """Chunks of two versions may be in flight: each finds its own weights live when its turn comes."""
        live, manifest = self.denoiser.parameters, weights.manifest
        if (live.version, live.checksum) != (manifest.version, manifest.checksum):
            live.install(weights)
