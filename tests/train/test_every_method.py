"""Every method, found by its name, trains on the random model and resumes bit for bit."""

from dataclasses import replace

import pytest
import torch

from raypref import methods
from raypref.core.search import Search
from raypref.methods.base import Method
from raypref.methods.spo import SPO
from raypref.methods.tailorpo import TailorPO
from raypref.registry import named_classes
from raypref.train.checkpoint import read_checkpoint, write_checkpoint
from raypref.train.experiment import (
    CheckpointConfig,
    EvaluateConfig,
    Experiment,
    OptimizerConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
)
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from tests.conftest import MakeExperiment
from tests.recording import Recording

METHODS = named_classes(methods, Method)


def small(make: MakeExperiment, method: Method, **sections: object) -> Experiment:
    """Two iterations of one prompt, four sampling steps of which two are trained on."""
    method = replace(method, search=replace(method.search, steps=(0, 2)))
    rows = method.rows_per_prompt()
    return make(
        method,
        **{
            "run": RunConfig(iterations=2, prompts_per_iteration=1, chunk_size=1, lag=0),
            "sampling": SamplingConfig(num_inference_steps=4, guidance_scale=1.0),
            "optimizer": OptimizerConfig(learning_rate=1e-3, batch_size=rows, micro_batch_size=rows),
            "evaluate": EvaluateConfig(every=0, rewards=()),
            "checkpoint": CheckpointConfig(every=1),
            "heldout_prompts": ("x",),
        }
        | sections,
    )


@pytest.mark.filterwarnings("ignore:rdpo_paper")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_trains_and_resumes(experiment: MakeExperiment, tmp_path, name: str):
    method = METHODS[name]()
    if isinstance(method, SPO):
        method = replace(method, threshold=0.0)  # colourfulness is no logit
    plan = small(experiment, method)
    whole, second = Recording(), Recording()
    runtime = LocalRuntime(plan)
    fresh = runtime.learner.weights(0)
    train(plan, runtime, whole)
    assert [report.alarms for report in whole.reports] == [{}, {}]
    assert all(report.pairs > 0 for report in whole.reports)
    assert not torch.equal(runtime.learner.weights(2).flat, fresh.flat)
    state = read_checkpoint(write_checkpoint(tmp_path, whole.states[0], keep=1))
    assert state.iteration == 1
    train(plan, LocalRuntime(plan), second, state)
    assert second.final_checksum() == whole.final_checksum()
    assert second.reports[0].metrics == whole.reports[1].metrics


def test_several_rewards_train_together(experiment: MakeExperiment):
    method = TailorPO(search=Search(step_reward="q", candidates=4))
    reward = RewardConfig("colorfulness", ("jpeg_incompressibility",))
    plan = small(experiment, method, reward=reward)
    runtime, seen = LocalRuntime(plan), Recording()
    train(plan, runtime, seen)
    assert set(seen.judgements[2][0].scores) == {"colorfulness", "jpeg_incompressibility"}
    for report in seen.reports:
        dropped = sum(report.metrics[f"dropped_{why}"] for why in ("unscored", "tie", "threshold"))
        assert report.pairs + dropped == 2
