"""A small experiment on the random model, and an observer that remembers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raypref.core.search import Search
from raypref.methods.rdpo import RDPO
from raypref.models.base import ModelConfig
from raypref.train.attendance import Attendance, Change
from raypref.train.checkpoint import TrainState
from raypref.train.experiment import (
    EvaluateConfig,
    Experiment,
    GuardAction,
    OptimizerConfig,
    RunConfig,
    SamplingConfig,
)
from raypref.train.learner import UpdateReport
from raypref.train.loop import Observer
from raypref.train.scorer import Judgement


def small_experiment(model: Path, lag: int = 1, iterations: int = 3, seed: int = 0, **sections: Any) -> Experiment:
    """Four prompts an iteration in chunks of two, six steps, the random model, RDPO on colourfulness."""
    return Experiment(
        method=RDPO(beta=10.0, search=Search(steps=(0, 2, 4))),
        run=RunConfig(iterations=iterations, prompts_per_iteration=4, chunk_size=2, lag=lag, seed=seed),
        model=ModelConfig(path=str(model)),
        sampling=SamplingConfig(num_inference_steps=6),
        optimizer=OptimizerConfig(learning_rate=1e-2, batch_size=6, micro_batch_size=3),
        evaluate=EvaluateConfig(every=0, rewards=()),
        prompts=("a cat", "a dog", "an owl"),
        heldout_prompts=("a fox",),
        **sections,
    )


class Recording(Observer):
    """Keeps everything that the loop tells."""

    def __init__(self) -> None:
        self.reports: list[UpdateReport] = []
        self.judgements: dict[int, list[Judgement]] = {}
        self.states: list[TrainState] = []
        self.alarms: list[tuple[int, dict[str, int], GuardAction]] = []
        self.losses: list[tuple[int, str]] = []
        self.changes: list[Change] = []

    def attended(self, iteration: int, attendance: Attendance) -> None:
        self.changes += attendance.changes

    def updated(self, iteration: int, report: UpdateReport, pairs: int, seconds: float) -> None:
        self.reports.append(report)

    def pictured(self, iteration: int, judgements: list[Judgement]) -> None:
        self.judgements[iteration] = judgements

    def alarmed(self, iteration: int, alarms: dict[str, int], action: GuardAction) -> None:
        self.alarms.append((iteration, alarms, action))

    def checkpointed(self, state: TrainState) -> None:
        self.states.append(state)

    def trained(self, export: Callable[[Path], None]) -> None:
        """Nothing to remember."""

    def learner_lost(self, iteration: int, why: str) -> None:
        self.losses.append((iteration, why))
        self.reports = self.reports[:iteration]

    def final_checksum(self) -> str:
        """Of the newest weights."""
        history = self.states[-1].learner.history
        return history[max(history)].manifest.checksum
