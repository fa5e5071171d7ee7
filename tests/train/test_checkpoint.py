"""What a checkpoint holds comes back as it was."""

import math
from dataclasses import replace

import pytest
import torch

from raypref.train.checkpoint import TrainState, read_checkpoint, write_checkpoint
from raypref.train.experiment import CheckpointConfig, GuardConfig, OptimizerConfig, ReferenceConfig
from raypref.train.folder import Folder
from raypref.train.loop import train
from tests.recording import Recording
from tests.toy_runtime import ToyRuntime, toy_experiment, toy_run

TWICE = OptimizerConfig(learning_rate=1e-2, batch_size=6, micro_batch_size=3, num_inner_epochs=2)


def check_equal(found: TrainState, wanted: TrainState) -> None:
    for name in ("iteration", "pairs", "seconds"):
        assert getattr(found, name) == getattr(wanted, name)
    assert found.base_diversity == pytest.approx(wanted.base_diversity, rel=0, nan_ok=True)
    mine, theirs = found.learner, wanted.learner
    assert mine.gradient_level == pytest.approx(theirs.gradient_level, rel=0, nan_ok=True)
    assert (mine.reference.version, mine.reference.updates) == (theirs.reference.version, theirs.reference.updates)
    assert (mine.reference.flat is None) == (theirs.reference.flat is None)
    if theirs.reference.flat is not None:
        assert torch.equal(mine.reference.flat, theirs.reference.flat)
    assert mine.optimizer.keys() == theirs.optimizer.keys()
    assert all(torch.equal(mine.optimizer[name], value) for name, value in theirs.optimizer.items())
    assert mine.history.keys() == theirs.history.keys()
    for version, weights in theirs.history.items():
        assert mine.history[version].manifest == weights.manifest
        assert torch.equal(mine.history[version].flat, weights.flat)


@pytest.mark.parametrize("update", ["frozen", "ema"])
def test_every_field_comes_back(tmp_path, update: str):
    seen, _ = toy_run(toy_experiment(lag=1, iterations=3, reference=ReferenceConfig(update, every=2)))
    state = seen.states[-1]
    assert state.base_diversity > 0
    assert state.learner.gradient_level > 0
    assert (state.learner.reference.flat is None) == (update == "frozen")
    assert state.learner.reference.updates == 6
    check_equal(read_checkpoint(write_checkpoint(Folder.at(tmp_path), state, keep=2)), state)


def test_a_learner_that_has_not_learned_yet_comes_back_too(tmp_path):
    runtime = ToyRuntime(toy_experiment())
    state = TrainState(0, 0, 0.0, 0.25, runtime.state())
    assert math.isnan(state.learner.gradient_level)
    check_equal(read_checkpoint(write_checkpoint(Folder.at(tmp_path), state, keep=2)), state)


class StopAt(Recording):
    """Stops the loop right after the checkpoint of an iteration."""

    def __init__(self, iteration: int) -> None:
        super().__init__()
        self.iteration = iteration

    def checkpointed(self, state: TrainState) -> None:
        super().checkpointed(state)
        if state.iteration == self.iteration:
            raise KeyboardInterrupt


ROLLED_BACK = {2: {"gradient_spike": 1}}


@pytest.mark.parametrize(
    ("lag", "every", "update", "trips"),
    [(0, 1, "ema", {}), (1, 1, "ema", {}), (0, 3, "hard", ROLLED_BACK), (1, 1, "ema", ROLLED_BACK)],
)
def test_resuming_changes_no_bit(tmp_path, lag: int, every: int, update: str, trips: dict[int, dict[str, int]]):
    """With a moving reference, cached outputs, and across a roll-back: stopped after iteration 3, when its version has
    just been rolled back."""
    experiment = toy_experiment(
        lag=lag,
        iterations=5,
        optimizer=TWICE,
        checkpoint=CheckpointConfig(every=every),
        guard=GuardConfig(gradient_spike="roll_back"),
        reference=ReferenceConfig(update, every=3, rate=0.3, pretrained_pull=0.1),
    )
    whole, _ = toy_run(experiment, trips)
    first = StopAt(3)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, ToyRuntime(experiment, trips), first)
    state = read_checkpoint(write_checkpoint(Folder.at(tmp_path), first.states[-1], keep=1))
    assert state.iteration == 3
    second, _ = toy_run(experiment, trips, state)
    assert [report.metrics for report in first.reports + second.reports] == [r.metrics for r in whole.reports]
    assert first.alarms + second.alarms == whole.alarms
    last, wanted = second.states[-1], whole.states[-1]
    assert wanted.learner.reference.version > 1
    check_equal(replace(last, seconds=0.0), replace(wanted, seconds=0.0))
