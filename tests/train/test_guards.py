"""Guards: what trips them, and what a run does then."""

import math

import pytest
import torch

from raypref.train.experiment import CheckpointConfig, EvaluateConfig, GuardConfig
from raypref.train.guards import GuardStop, demanded, picture_alarms
from raypref.train.loop import train
from raypref.train.scorer import Judgement
from tests.recording import Recording
from tests.toy_runtime import ToyRuntime, toy_experiment, toy_run

SPIKE = {"gradient_spike": 1}


def judged(*grey: int) -> list[Judgement]:
    """One grey picture each, two a prompt, in chunks of two."""
    images = torch.tensor(grey, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 2, 3).contiguous()
    return [Judgement(("a", "a"), part, {}, {}) for part in images.split(2)]


def test_burnt_out_pictures_trip_the_saturation_guard():
    config = GuardConfig(saturated_share=0.5)
    assert picture_alarms(config, judged(0, 255, 7, 9), 2, math.nan) == {}  # a share of exactly 0.5
    assert picture_alarms(config, judged(0, 255, 255, 9), 2, math.nan) == {"saturated": 1}
    assert picture_alarms(GuardConfig(saturated_share=0.8), judged(0, 255, 255, 9), 2, math.nan) == {}
    assert picture_alarms(config, judged(1, 254, 254, 9), 2, math.nan) == {}


def test_pictures_of_one_prompt_that_became_alike_trip_the_diversity_guard():
    # |51 - 0| / 255 = 0.2 and |102 - 0| / 255 = 0.4: 0.3 on average
    pictures = judged(10, 61, 10, 112)
    assert picture_alarms(GuardConfig(diversity_share=0.5), pictures, 2, 0.59) == {}
    assert picture_alarms(GuardConfig(diversity_share=0.5), pictures, 2, 0.61) == {"diversity": 1}
    assert picture_alarms(GuardConfig(diversity_share=0.9), pictures, 2, 0.34) == {"diversity": 1}
    assert picture_alarms(GuardConfig(), pictures, 2, math.nan) == {}  # the base model itself


def test_the_strongest_demand_counts():
    config = GuardConfig(nonfinite="stop", gradient_spike="count", saturated="roll_back", diversity="count")
    assert demanded(config, {"gradient_spike": 3, "diversity": 1}) == "count"
    assert demanded(config, {"gradient_spike": 3, "saturated": 1}) == "roll_back"
    assert demanded(config, {"saturated": 1, "nonfinite": 1}) == "stop"
    assert demanded(config, {}) == "count"


def test_counting_changes_nothing():
    plain, tripped = (toy_run(toy_experiment(iterations=3), trips)[0] for trips in (None, {1: SPIKE}))
    assert plain.final_checksum() == tripped.final_checksum()
    assert plain.alarms == []
    assert tripped.alarms == [(2, SPIKE, "count")]


def test_a_guard_that_stops_leaves_the_last_good_state_as_it_was():
    experiment = toy_experiment(guard=GuardConfig(gradient_spike="stop"))
    seen = Recording()
    with pytest.raises(
        GuardStop, match=r"iteration 3: gradient_spike \(2x\)\. .* last good state is that of iteration 2\."
    ):
        train(experiment, ToyRuntime(experiment, {2: {"gradient_spike": 2}}), seen)
    assert seen.alarms == [(3, {"gradient_spike": 2}, "stop")]
    assert [state.iteration for state in seen.states] == [0, 1, 2]
    plain, _ = toy_run(toy_experiment())
    resumed, _ = toy_run(experiment, resumed=seen.states[-1])  # whatever it was, it is gone
    assert resumed.final_checksum() == plain.final_checksum()


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_rolling_back_goes_on_with_the_state_before_under_the_new_number(lag: int, every: int):
    """The update of iteration 2 goes wrong: its version 3 becomes version 2's weights, however checkpoints are kept."""
    experiment = toy_experiment(
        lag=lag, iterations=5, checkpoint=CheckpointConfig(every=every), guard=GuardConfig(gradient_spike="roll_back")
    )
    versions, states = {}, []

    class Watched(Recording):
        def updated(self, iteration, report, pairs, seconds):
            super().updated(iteration, report, pairs, seconds)
            versions[iteration + 1] = runtime.learner.weights(iteration + 1)

        def alarmed(self, iteration, alarms, action):
            super().alarmed(iteration, alarms, action)
            states.append(runtime.state())

    class Remembering(ToyRuntime):
        def roll_back(self, state, version):
            states.append(state)
            super().roll_back(state, version)
            states.append(self.state())

    seen, runtime = Watched(), Remembering(experiment, {2: SPIKE})
    versions[0] = runtime.learner.weights(0)
    train(experiment, runtime, seen)
    assert seen.alarms == [(3, SPIKE, "roll_back")]
    before, kept, after = states
    assert torch.equal(after.history[3].flat, versions[2].flat)
    assert not torch.equal(after.history[3].flat, before.history[3].flat)
    assert after.history[3].manifest.version == 3
    assert after.optimizer.keys() == kept.optimizer.keys()
    assert all(torch.equal(after.optimizer[name], kept.optimizer[name]) for name in kept.optimizer)
    assert (after.reference.updates, after.reference.version) == (kept.reference.updates, kept.reference.version)
    if lag:
        assert torch.equal(after.history[2].flat, before.history[2].flat)  # for rollouts on their way
    assert not torch.equal(versions[4].flat, after.history[3].flat)  # training goes on
    assert len(seen.reports) == 5

    again, _ = toy_run(experiment, {2: SPIKE})
    assert again.final_checksum() == seen.final_checksum()
    assert toy_run(experiment)[0].final_checksum() != seen.final_checksum()


def test_pictures_are_guarded_too():
    """A policy that paints everything alike is seen at the evaluation, against the base model's diversity."""

    class Fading(ToyRuntime):
        def picture(self, chunks, drawing=None):
            found = super().picture(chunks, drawing)
            if not max(self.learner.history):
                return found
            return [Judgement(p.prompts, p.images * 0 + 77, p.scores, p.accuracy) for p in found]

    experiment = toy_experiment(iterations=2, evaluate=EvaluateConfig(every=1, rewards=()))
    seen = Recording()
    train(experiment, Fading(experiment), seen)
    assert seen.alarms == [(1, {"diversity": 1}, "count"), (2, {"diversity": 1}, "count")]


def test_pictures_of_a_version_that_was_rolled_back_are_of_what_took_its_place():
    experiment = toy_experiment(
        guard=GuardConfig(gradient_spike="roll_back"),
        checkpoint=CheckpointConfig(every=1),
        evaluate=EvaluateConfig(every=1, rewards=()),
    )
    seen, _ = toy_run(experiment, {3: SPIKE})  # the last iteration
    assert torch.equal(seen.judgements[4][0].images, seen.judgements[3][0].images)
    plain, _ = toy_run(experiment)
    assert not torch.equal(plain.judgements[4][0].images, plain.judgements[3][0].images)


def test_a_gradient_that_is_not_finite_stops_the_run():
    experiment = toy_experiment()
    runtime, seen = ToyRuntime(experiment), Recording()
    runtime.learner.weights(0)  # its canary still sings
    runtime.learner.denoiser.mixing[0, 0] = torch.nan  # the learner's network alone: rollouts and scores are sound
    with pytest.raises(GuardStop, match=r"iteration 1: nonfinite \(2x\)"):
        train(experiment, runtime, seen)
    assert [state.iteration for state in seen.states] == [0]
    assert bool((runtime.learner.weights(1).flat == 0).all())
