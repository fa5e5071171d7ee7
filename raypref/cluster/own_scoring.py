"""Rewards in the sampler's own process, for a run without reward workers."""

import threading
from functools import cached_property

from raypref.train.attendance import Change
from raypref.train.build import build_scorer
from raypref.train.experiment import Experiment
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.sampler import Scoring
from raypref.train.scorer import Judgement, Scorer


class OwnScoring(Scoring):
    """A scorer beside the sampler. It takes one request at a time, as a reward worker does: a sampler has several
    chunks in flight, and a reward need not stand two calls at once."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._turn = threading.Lock()

    @cached_property
    def scorer(self) -> Scorer:
        return build_scorer(self.experiment)

    def load(self) -> None:
        """Raises StoppedRun where a reward's weights or code cannot be loaded."""
        assert self.scorer

    def score(self, request: ScoreRequest) -> Scores:
        with self._turn:
            return self.scorer.score(request)

    def judge(self, request: ScoreRequest) -> Judgement:
        with self._turn:
            return self.scorer.judge(request)

    def incidents(self) -> list[Change]:
        """None: there are no reward workers that something could become of."""
        return []
