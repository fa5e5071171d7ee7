"""Where the roles run: the verbs that the loop speaks, and the runtime without Ray."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from raypref.train.attendance import Attendance
from raypref.train.build import build_learner, build_sampler, build_scorer
from raypref.train.chunk import Chunk
from raypref.train.drawing import Drawing
from raypref.train.experiment import Experiment
from raypref.train.learner import UpdateReport
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.sampler import Scoring
from raypref.train.scorer import Judgement, Scorer
from raypref.train.state import LearnerState, learner_state, restore_learner, roll_back
from raypref.train.stopped import StoppedRun

MAX_LOSSES = 3
"""Workers that one piece of work may cost: a chunk samplers, pictures reward workers, an iteration learners."""


class LearnerLost(StoppedRun):
    """The learner died or fell silent; `restore` starts another."""


class Runtime(ABC):
    """Samplers, reward workers and a learner, somewhere. Every runtime gives the same numbers."""

    @abstractmethod
    def request(self, iteration: int, chunks: list[Chunk], version: int) -> None:
        """Asks for an iteration's rollouts with a version of the weights; may return before they are there."""

    @abstractmethod
    def update(self, iteration: int) -> UpdateReport:
        """Trains on the rollouts that were requested for an iteration."""

    @abstractmethod
    def pictures(self, chunks: list[Chunk], drawing: Drawing | None = None) -> Iterator[Judgement]:
        """Finished, judged pictures by the newest policy, as it is deployed; see `Sampler.picture`. One judgement a
        chunk, in their order, each as soon as it is there: whoever lets go of them needs the memory of one."""

    def picture(self, chunks: list[Chunk], drawing: Drawing | None = None) -> list[Judgement]:
        """All of them."""
        return list(self.pictures(chunks, drawing))

    @abstractmethod
    def state(self) -> LearnerState:
        """Everything that the learner would need to go on."""

    @abstractmethod
    def restore(self, state: LearnerState | None) -> None:
        """Goes on from there, or from the start; what was requested before is forgotten. It comes first of all."""

    @abstractmethod
    def roll_back(self, state: LearnerState, version: int) -> None:
        """Puts an earlier state in the place of the newest version."""

    @abstractmethod
    def attendance(self) -> Attendance:
        """Who has worked, come and gone since this was last asked. It never fails."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Writes the newest policy, as it is deployed, for diffusers."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of workers and memory."""


class LocalScoring(Scoring):
    """A scorer in this process."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def score(self, request: ScoreRequest) -> Scores:
        return self.scorer.score(request)

    def judge(self, request: ScoreRequest) -> Judgement:
        return self.scorer.judge(request)


class LocalRuntime(Runtime):
    """All roles in this process, one after the other: for debugging and for tests."""

    def __init__(self, experiment: Experiment) -> None:
        self.learner = build_learner(experiment)
        self.sampler = build_sampler(experiment, LocalScoring(build_scorer(experiment)), self.learner)
        self._requested: dict[int, tuple[list[Chunk], int]] = {}

    def request(self, iteration: int, chunks: list[Chunk], version: int) -> None:
        self._requested[iteration] = (chunks, version)

    def update(self, iteration: int) -> UpdateReport:
        chunks, version = self._requested.pop(iteration)
        weights = self.learner.weights(version)
        return self.learner.update(iteration, [self.sampler.rollout(chunk, weights) for chunk in chunks])

    def pictures(self, chunks: list[Chunk], drawing: Drawing | None = None) -> Iterator[Judgement]:
        weights = self.learner.deployed()
        for chunk in chunks:
            yield self.sampler.picture(chunk, weights, drawing)

    def state(self) -> LearnerState:
        return learner_state(self.learner)

    def restore(self, state: LearnerState | None) -> None:
        self._requested.clear()
        if state is not None:
            restore_learner(self.learner, state)

    def roll_back(self, state: LearnerState, version: int) -> None:
        roll_back(self.learner, state, version)

    def attendance(self) -> Attendance:
        return Attendance()

    def export(self, folder: Path) -> None:
        self.learner.export(folder)

    def close(self) -> None:
        self._requested.clear()
