"""With a moving average samplers learn from the policy, and users are given the average."""

from dataclasses import replace

import pytest
import torch

from raypref.core.moving_average import follow
from raypref.core.weights import Weights, checksum
from raypref.train.chunk import evaluation_chunks
from raypref.train.experiment import EvaluateConfig, Experiment, OptimizerConfig
from tests.toy_runtime import ToyRuntime, toy_experiment, toy_run


def averaged(ema_decay: float = 0.8, **sections: object) -> Experiment:
    """An update or two an iteration."""
    optimizer = replace(toy_experiment().optimizer, ema_decay=ema_decay)
    return toy_experiment(optimizer=optimizer, evaluate=EvaluateConfig(every=1, rewards=()), **sections)


def scores(judgements) -> list[float]:
    return [score for part in judgements for score in part.scores["colorfulness"].tolist()]


def test_the_policy_is_trained_as_without():
    seen, plain = toy_run(averaged())[0], toy_run(averaged(0.0))[0]
    assert seen.final_checksum() == plain.final_checksum()
    assert seen.states[-1].learner.deployed() != plain.states[-1].learner.deployed() == plain.final_checksum()


def test_it_follows_every_update():
    """Of one update an iteration every version of the policy is known."""
    whole = OptimizerConfig(learning_rate=1e-2, batch_size=1000, micro_batch_size=500, ema_decay=0.2)
    states = [state.learner for state in toy_run(toy_experiment(optimizer=whole))[0].states]
    found = states[0].history[0].flat
    for update, state in enumerate(states[1:], 1):
        found = follow(found, state.history[update].flat, update, 0.2)
        assert torch.equal(state.average, found)


def test_pictures_and_export_are_of_the_average(tmp_path):
    seen, runtime = toy_run(averaged())
    average = seen.states[-1].learner.average
    judged = scores(seen.judgements[4])
    assert scores(seen.judgements[0]) != judged  # of the base model: it has moved

    other = ToyRuntime(averaged(0.0))
    manifest = replace(other.learner.history[0].manifest, checksum=checksum(average))
    other.learner.history[0] = Weights(manifest, average)
    assert scores(other.picture(evaluation_chunks(averaged()))) == judged

    exported, parameters = [], runtime.learner.denoiser.parameters
    runtime.learner.denoiser.export = lambda folder: exported.append(parameters.flat.clone())
    live = parameters.flat.clone()
    runtime.export(tmp_path)
    assert torch.equal(exported[0], average)
    assert not torch.equal(average, live)
    assert torch.equal(parameters.flat, live)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_resumed_run_goes_on_with_its_average(lag: int):
    experiment = averaged(lag=lag)
    whole = toy_run(experiment)[0]
    rest = toy_run(experiment, resumed=whole.states[2])[0]
    assert torch.equal(rest.states[-1].learner.average, whole.states[-1].learner.average)
    assert scores(rest.judgements[4]) == scores(whole.judgements[4])


def test_a_roll_back_takes_the_average_back_too():
    experiment = averaged()
    experiment = replace(experiment, guard=replace(experiment.guard, gradient_spike="roll_back"))
    states = toy_run(experiment, {2: {"gradient_spike": 1}})[0].states
    assert torch.equal(states[3].learner.average, states[2].learner.average)
    assert not torch.equal(states[4].learner.average, states[3].learner.average)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(decay: float):
    with pytest.raises(ValueError, match="ema_decay"):
        OptimizerConfig(ema_decay=decay)
