"""The sampler's work: roll out chunks with a given version of the weights, several of them interleaved."""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from raypref.core.regression import OwnSamples
from raypref.core.search import NEEDS
from raypref.core.types import Rollout
from raypref.core.weights import Weights
from raypref.methods.base import StepMethod
from raypref.methods.regression import RegressionMethod
from raypref.models.base import Denoiser
from raypref.train.canary import Canary
from raypref.train.chunk import Chunk
from raypref.train.drawing import Drawing
from raypref.train.experiment import Experiment
from raypref.train.out_of_memory import explaining_out_of_memory
from raypref.train.own_samples import draw_own
from raypref.train.rollout import Encode, ScoreRequest, Scores, Walk, explore, finish
from raypref.train.scorer import Judgement, together

Found = TypeVar("Found")

SAMPLER_SECONDS = ("denoising", "scoring", "rewarding", "syncing")
"""What seconds are counted of: scoring as the sampler waits for it, rewarding as a scorer is busy with it."""


class Scoring(ABC):
    """Whoever answers score requests: a Scorer in this process, or reward workers elsewhere."""

    @abstractmethod
    def score(self, request: ScoreRequest) -> Scores: ...

    @abstractmethod
    def judge(self, request: ScoreRequest) -> Judgement: ...


@dataclass(frozen=True)
class SampledRollout:
    """A rollout, or what a method on labelled pictures needs, and what it cost."""

    rollout: Rollout | OwnSamples
    seconds: dict[str, float] = field(default_factory=dict)
    """By SAMPLER_SECONDS."""
    syncs: int = 0
    """Versions of the weights that this sampler has proved since its last rollout; with pictures in between, theirs."""
    failures: dict[str, int] = field(default_factory=dict)
    """Why, and of how many pictures, a reward gave no score."""


@dataclass
class Spent:
    """What a search cost, in seconds and missing scores; it grows while the search runs."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SAMPLER_SECONDS, 0.0))
    failures: dict[str, int] = field(default_factory=dict)


class Sampler:
    """A denoiser that rolls out chunks. Threads may call it at once: one denoises while the others wait for scores."""

    def __init__(
        self, denoiser: Denoiser, experiment: Experiment, scoring: Scoring, encode: Encode | None = None
    ) -> None:
        """Without `encode` it cannot edit pictures."""
        self._encode = encode
        self.denoiser, self.scoring, self.method = denoiser, scoring, experiment.method
        self.sync_tolerance = experiment.cluster.sync_tolerance
        self.fused = experiment.run.fused_sampling
        # Whether a tiny decoder has a say in what is trained on.
        ranks_on_the_way = isinstance(self.method, StepMethod) and bool(NEEDS[self.method.search.step_reward])
        self.approximate = bool(experiment.model.tiny_vae) and ranks_on_the_way
        self.process = experiment.sampling.process(denoiser.schedule)
        self.guidance_scale = experiment.sampling.guidance_scale
        self._network = threading.Lock()
        self._canary = Canary(denoiser, self.process, self.guidance_scale)
        self._proved: deque[tuple[int, str]] = deque(maxlen=4)
        self._syncs, self._seconds_syncing = 0, 0.0  # not told yet

    @explaining_out_of_memory("sampler")
    def rollout(self, chunk: Chunk, weights: Weights) -> SampledRollout:
        """Searches, or draws, from the chunk's prompts with exactly these weights."""
        with self.denoiser.at_work():
            rollout, spent = self._drive(self._experience(self._walk(chunk)), weights)
        with self._network:
            syncs, seconds, self._syncs, self._seconds_syncing = self._syncs, self._seconds_syncing, 0, 0.0
        return SampledRollout(rollout, spent.seconds | {"syncing": seconds}, syncs, spent.failures)

    def _experience(self, walk: Walk) -> Generator[ScoreRequest, Scores, Rollout | OwnSamples]:
        """What the method eats."""
        if isinstance(self.method, RegressionMethod):
            return draw_own(walk, self.method.own)
        assert isinstance(self.method, StepMethod), "there are two kinds"
        search = self.method.search
        if self.fused:
            walk, search = replace(walk, graph_steps=frozenset(search.recorded())), replace(search, keep_mean=True)
        return explore(walk, search)

    @explaining_out_of_memory("sampler")
    def picture(self, chunk: Chunk, weights: Weights, drawing: Drawing | None = None) -> Judgement:
        """Finished pictures of the chunk's prompts, judged; with the scores of what was predicted on the way.

        With a `drawing` they are drawn in its way, and nothing that was predicted is reported.
        """
        with self.denoiser.at_work():
            return self._picture(chunk, weights, drawing)

    def _picture(self, chunk: Chunk, weights: Weights, drawing: Drawing | None) -> Judgement:
        walk = self._walk(chunk)
        if drawing is not None:
            drawn, spent = self._drive(drawing.draw(walk), weights)
            judgement = self.scoring.judge(walk.request({len(self.process): drawn.x_0[None]}))
            return replace(judgement, kl=drawn.kl, failures=together(spent.failures, judgement.failures))
        with self._network:
            self._use(weights)
            candidates = self.method.latents_at_once() if self.approximate else 1
            x_0, predicted = finish(walk, self.method.recorded_steps(), candidates)
        judgement = self.scoring.judge(walk.request({len(self.process): x_0[None]}))
        return self._judge_on_the_way(walk, predicted, judgement) if predicted else judgement

    def _judge_on_the_way(self, walk: Walk, predicted: dict[int, Tensor], judgement: Judgement) -> Judgement:
        """The judgement with the scores of clean latents by the step that they were predicted at."""
        request = walk.request(predicted)
        scores = [self.scoring.score(request)]
        if self.approximate:
            scores.append(self.scoring.score(replace(request, full=True)))
        answers = [walk.answers(predicted, found) for found in scores]
        by_step = {step - 1: torch.stack([found[step][:, :, 0].T for found in answers]) for step in predicted}
        return replace(
            judgement,
            score_by_step={step: found[0, :, 0] for step, found in by_step.items()},
            decoded_twice=by_step if self.approximate else {},
            failures=together(judgement.failures, *(found.failures for found in scores)),
        )

    def prove(self, weights: Weights) -> None:
        """Installs weights and compares its prediction with the learner's, as every chunk does with weights new to it.

        Raises:
            WeightsError: where they differ.
        """
        with self._network:
            self._use(weights)

    def _drive(self, search: Generator[ScoreRequest, Scores, Found], weights: Weights) -> tuple[Found, Spent]:
        """What a search finds, and what it cost."""
        spent, scores = Spent(), None
        while True:
            with self._network:
                self._use(weights)
                started = time.perf_counter()
                try:
                    request = next(search) if scores is None else search.send(scores)
                except StopIteration as done:
                    return done.value, spent
                finally:
                    spent.seconds["denoising"] += time.perf_counter() - started
            started = time.perf_counter()
            scores = self.scoring.score(request)
            spent.seconds["scoring"] += time.perf_counter() - started
            spent.seconds["rewarding"] += scores.seconds
            spent.failures = together(spent.failures, scores.failures)

    def _walk(self, chunk: Chunk) -> Walk:
        return Walk(self.denoiser, self.process, chunk, self.guidance_scale, self._encode)

    def _use(self, weights: Weights) -> None:
        """Chunks of two versions may be in flight: each finds its own weights live when its turn comes. Those that are
        new to this sampler prove themselves."""
        started = time.perf_counter()
        live, identity = self.denoiser.parameters, (weights.manifest.version, weights.manifest.checksum)
        if (live.version, live.checksum) != identity:
            live.install(weights)
        if identity not in self._proved:
            self._canary.prove(weights, self.sync_tolerance)
            self._proved.append(identity)
            self._syncs += 1
        self._seconds_syncing += time.perf_counter() - started
