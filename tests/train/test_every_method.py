"""Every method, found by its name, trains on the random model and resumes bit for bit."""

import pytest
import torch

from raypref import methods
from raypref.core.search import Search
from raypref.methods.base import Method
from raypref.methods.tailorpo import TailorPO
from raypref.registry import named_classes
from raypref.train.checkpoint import read_checkpoint, write_checkpoint
from raypref.train.experiment import RewardConfig
from raypref.train.folder import Folder
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from tests.conftest import MakeExperiment
from tests.recording import Recording
from tests.smallest import smallest_experiment

METHODS = named_classes(methods, Method)


@pytest.mark.filterwarnings("ignore:psi_sign")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_trains_and_resumes(experiment: MakeExperiment, tmp_path, name: str):
    plan = smallest_experiment(experiment, METHODS[name]())
    whole, second = Recording(), Recording()
    runtime = LocalRuntime(plan)
    fresh = runtime.learner.weights(0)
    train(plan, runtime, whole)
    assert [report.alarms for report in whole.reports] == [{}, {}]
    assert all(report.pairs > 0 for report in whole.reports)
    assert not torch.equal(runtime.learner.weights(2).flat, fresh.flat)
    state = read_checkpoint(write_checkpoint(Folder.at(tmp_path), whole.states[1], keep=1))
    assert state.iteration == 1
    train(plan, LocalRuntime(plan), second, state)
    assert second.final_checksum() == whole.final_checksum()
    assert repr(second.reports[0].metrics) == repr(whole.reports[1].metrics)  # some are NaN: not every method has all


def test_several_rewards_train_together(experiment: MakeExperiment):
    method = TailorPO(search=Search(step_reward="q", candidates=4))
    reward = RewardConfig("colorfulness", ("jpeg_incompressibility",))
    plan = smallest_experiment(experiment, method, reward=reward)
    runtime, seen = LocalRuntime(plan), Recording()
    train(plan, runtime, seen)
    assert set(seen.judgements[2][0].scores) == {"colorfulness", "jpeg_incompressibility"}
    for report in seen.reports:
        dropped = sum(report.metrics[f"dropped_{why}"] for why in ("unscored", "tie", "incomparable", "threshold"))
        assert report.pairs + dropped == 2
