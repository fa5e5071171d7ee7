"""The studio: whose weights draw what, on which runtime, and what happens where one is lost."""

from dataclasses import replace

import pytest
import torch

from raypref.evaluate.question import Contender, Scene
from raypref.models.base import ModelConfig
from raypref.studio import Policy, RuntimeStudio
from raypref.train.drawing import Compared
from raypref.train.experiment import EvaluateConfig
from raypref.train.runtime import LearnerLost
from tests.toy_runtime import ToyRuntime, toy_experiment, toy_run

EXPERIMENT = toy_experiment(heldout_prompts=("f", "g", "h"), evaluate=EvaluateConfig(every=0, rewards=()))
BASE, RUN, AGAIN = Contender("base"), Contender("run", "colorfulness", 4), Contender("run (2)", "colorfulness", 4)


class Watched(ToyRuntime):
    """Counts what is asked of it, all runtimes together; `losses` times its learner is lost while it draws."""

    calls: list[str]
    losses = 0

    def __init__(self, experiment):
        super().__init__(experiment)
        self.calls.append(f"start {experiment.model.path}")

    def picture(self, chunks, version, drawing=None):
        self.calls.append("picture")
        if type(self).losses:
            type(self).losses -= 1
            raise LearnerLost("gone")
        return super().picture(chunks, version, drawing)

    def close(self):
        self.calls.append("close")


@pytest.fixture
def watched():
    Watched.calls, Watched.losses = [], 0
    return Watched


@pytest.fixture(scope="module")
def trained():
    return toy_run(EXPERIMENT)[0].states


def rooms(runtime, trained, model=EXPERIMENT.model):
    policies = {who: Policy(EXPERIMENT.model, trained[-1]) for who in (RUN, AGAIN)}
    other = {Contender("other"): Policy(model, trained[1])}
    return RuntimeStudio(EXPERIMENT, {BASE: Policy(EXPERIMENT.model, None), **policies, **other}, start=runtime)


def test_the_base_model_is_drawn_whatever_was_drawn_before(watched, trained):
    scene = Scene(EXPERIMENT.heldout_prompts)
    first, last = rooms(watched, trained), rooms(watched, trained)
    before = [first.albums(who, [scene])[0].images for who in (BASE, RUN)]
    after = [last.albums(who, [scene])[0].images for who in (RUN, BASE)]
    assert torch.equal(before[0], after[1])
    assert torch.equal(before[1], after[0])
    assert not torch.equal(*before)
    assert before[0].shape[:2] == (3, 2)


def test_base_pictures_are_those_that_training_started_with(watched, trained):
    seen, _ = toy_run(EXPERIMENT)
    (album,) = rooms(watched, trained).albums(BASE, [Scene(EXPERIMENT.heldout_prompts)])
    assert torch.equal(album.images.flatten(0, 1), torch.cat([part.images for part in seen.judgements[0]]))
    (album,) = rooms(watched, trained).albums(RUN, [Scene(EXPERIMENT.heldout_prompts)])
    assert torch.equal(album.images.flatten(0, 1), torch.cat([part.images for part in seen.judgements[4]]))


def test_a_scene_is_drawn_once_for_each_and_the_same_run_twice_gives_the_same_bits(watched, trained):
    asked, scene = rooms(watched, trained), Scene(EXPERIMENT.heldout_prompts)
    for who in (RUN, RUN, AGAIN):
        asked.albums(who, [scene, scene])
    assert watched.calls.count("picture") == 2
    one, other = (asked.albums(who, [scene])[0] for who in (RUN, AGAIN))
    assert one is not other
    assert torch.equal(one.images, other.images)


def test_one_runtime_for_one_model_and_another_for_another(watched, trained):
    scene = Scene(EXPERIMENT.heldout_prompts)
    asked = rooms(watched, trained, replace(EXPERIMENT.model, path="another"))
    for who in asked.contenders:
        asked.albums(who, [scene])
    asked.close()
    starts = [call for call in watched.calls if call != "picture"]
    assert starts == ["start tiny", "close", "start another", "close"]


def test_workers_know_every_prompt_from_the_start(watched, trained):
    told = []
    asked = RuntimeStudio(
        EXPERIMENT, {BASE: Policy(ModelConfig(), None)}, ("k", "f"), lambda plan: told.append(plan) or watched(plan)
    )
    asked.albums(BASE, [Scene(("k",))])
    assert told[0].heldout_prompts == ("f", "g", "h", "k")
    assert asked.heldout() == Scene(("f", "g", "h"))


def test_a_lost_learner_costs_nothing_but_time_until_it_is_lost_again_and_again(watched, trained):
    scene = Scene(EXPERIMENT.heldout_prompts, Compared())
    (plain,) = rooms(watched, trained).albums(RUN, [scene])
    watched.losses = 2
    (found,) = rooms(watched, trained).albums(RUN, [scene])
    assert torch.equal(plain.images, found.images)
    assert plain.kl.shape == (3, 2, 6)
    assert torch.equal(plain.kl, found.kl)
    watched.losses = 3
    with pytest.raises(LearnerLost):
        rooms(watched, trained).albums(RUN, [scene])
