"""The studio: whose weights draw what, on which runtime, and what happens where one is lost."""

from dataclasses import replace
from itertools import count
from weakref import WeakSet

import pytest
import torch

from raypref.evaluate.question import Album, Contender, Scene
from raypref.models.base import ModelConfig
from raypref.studio import Policy, RuntimeStudio
from raypref.train.drawing import Compared
from raypref.train.experiment import ClusterConfig, EvaluateConfig, RewardConfig
from raypref.train.runtime import LearnerLost
from raypref.train.scorer import Judgement
from tests.toy_runtime import ToyRuntime, toy_experiment, toy_run

EXPERIMENT = toy_experiment(heldout_prompts=("f", "g", "h"), evaluate=EvaluateConfig(every=0, rewards=()))
BASE, RUN, AGAIN = Contender("base"), Contender("run", "colorfulness", 4), Contender("run (2)", "colorfulness", 4)


class Watched(ToyRuntime):
    """Counts what is asked of it, all runtimes together; `losses` times its learner is lost while it draws, and after
    `kill_after` chunks the process is."""

    calls: list[str]
    losses = 0
    kill_after = 0

    def __init__(self, experiment):
        super().__init__(experiment)
        self.calls.append(f"start {experiment.model.path}")

    def pictures(self, chunks, drawing=None):
        self.calls.append(f"picture {len(chunks)}")
        if type(self).losses:
            type(self).losses -= 1
            raise LearnerLost("gone")
        for place, judgement in enumerate(super().pictures(chunks, drawing)):
            if type(self).kill_after and place == type(self).kill_after:
                raise KeyboardInterrupt
            yield judgement

    def close(self):
        self.calls.append("close")


@pytest.fixture
def watched():
    Watched.calls, Watched.losses, Watched.kill_after = [], 0, 0
    return Watched


@pytest.fixture(scope="module")
def trained():
    return toy_run(EXPERIMENT)[0].states


@pytest.fixture
def rooms(trained, tmp_path):
    """A studio; in another folder each time, unless it is told which."""
    numbers = count()

    def make(runtime, folder=None, **changes):
        return studio(runtime, trained, folder or tmp_path / str(next(numbers)), **changes)

    return make


def studio(runtime, trained, folder, model=EXPERIMENT.model, experiment=EXPERIMENT):
    policies = {who: Policy(EXPERIMENT.model, trained[-1]) for who in (RUN, AGAIN)}
    other = {Contender("other"): Policy(model, trained[1])}
    return RuntimeStudio(experiment, {BASE: Policy(EXPERIMENT.model, None), **policies, **other}, folder, start=runtime)


def test_the_base_model_is_drawn_whatever_was_drawn_before(watched, rooms):
    scene = Scene(EXPERIMENT.heldout_prompts, pictures=True)
    first, last = rooms(watched), rooms(watched)
    before = [first.albums(who, [scene])[0].images for who in (BASE, RUN)]
    after = [last.albums(who, [scene])[0].images for who in (RUN, BASE)]
    assert torch.equal(before[0], after[1])
    assert torch.equal(before[1], after[0])
    assert not torch.equal(*before)
    assert before[0].shape[:2] == (3, 2)


def test_base_pictures_are_those_that_training_started_with(watched, rooms):
    seen, _ = toy_run(EXPERIMENT)
    scene = Scene(EXPERIMENT.heldout_prompts, pictures=True)
    (album,) = rooms(watched).albums(BASE, [scene])
    assert torch.equal(album.images.flatten(0, 1), torch.cat([part.images for part in seen.judgements[0]]))
    (album,) = rooms(watched).albums(RUN, [scene])
    assert torch.equal(album.images.flatten(0, 1), torch.cat([part.images for part in seen.judgements[4]]))


def test_a_scene_is_drawn_once_for_the_same_weights_under_any_name(watched, rooms):
    asked, scene = rooms(watched), Scene(EXPERIMENT.heldout_prompts, pictures=True)
    for who in (RUN, RUN, AGAIN):
        asked.albums(who, [scene, scene])
    assert [call for call in watched.calls if call.startswith("picture")] == ["picture 2"]
    one, other = (asked.albums(who, [scene])[0] for who in (RUN, AGAIN))
    assert torch.equal(one.images, other.images)


def test_of_the_same_weights_another_moving_average_is_another_policy(watched, trained, tmp_path):
    """Which two runs have that differ in optimizer.ema_decay alone."""
    plain, scene = trained[-1], Scene(EXPERIMENT.heldout_prompts, pictures=True)
    averaged = replace(plain, learner=replace(plain.learner, average=trained[0].learner.history[0].flat))
    policies = {RUN: Policy(EXPERIMENT.model, plain), AGAIN: Policy(EXPERIMENT.model, averaged),
                BASE: Policy(EXPERIMENT.model, None)}  # fmt: skip
    both = RuntimeStudio(EXPERIMENT, policies, tmp_path / "both", start=watched)
    one, other, base = (both.albums(who, [scene])[0].images for who in policies)
    assert not torch.equal(one, other)
    assert torch.equal(other, base)  # of which the average has not moved


def test_a_kill_costs_the_chunk_that_was_on_its_way(watched, rooms, tmp_path):
    scene = Scene(EXPERIMENT.heldout_prompts, Compared(), pictures=True)
    (plain,) = rooms(watched).albums(RUN, [scene])
    watched.kill_after, folder = 1, tmp_path / "questions"
    with pytest.raises(KeyboardInterrupt):
        rooms(watched, folder).albums(RUN, [scene])
    watched.calls.clear()
    watched.kill_after = 0
    (found,) = rooms(watched, folder).albums(RUN, [scene])
    assert watched.calls == ["start tiny", "picture 1"]
    assert torch.equal(found.images, plain.images)
    assert torch.equal(found.scores["colorfulness"], plain.scores["colorfulness"])
    torch.testing.assert_close(found.kl, plain.kl, rtol=0, atol=0, equal_nan=True)
    watched.calls.clear()
    rooms(watched, folder).albums(RUN, [scene])
    assert watched.calls == []  # not even a model is loaded


def test_pictures_are_kept_where_they_are_looked_at_and_scores_serve_whoever_does_not_look(watched, rooms, tmp_path):
    asked, scene = rooms(watched, tmp_path), Scene(EXPERIMENT.heldout_prompts)
    (alone,) = asked.albums(RUN, [scene])
    with pytest.raises(ValueError, match="its scene must ask for pictures"):
        _ = alone.images
    slim = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    (whole,) = asked.albums(RUN, [replace(scene, pictures=True)])
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) >= slim + whole.images.numel()
    assert torch.equal(whole.scores["colorfulness"], alone.scores["colorfulness"])
    calls = len(watched.calls)
    asked.albums(RUN, [scene])
    assert len(watched.calls) == calls


@pytest.mark.parametrize(
    "other",
    [
        {"run": replace(EXPERIMENT.run, seed=5)},
        {"run": replace(EXPERIMENT.run, chunk_size=1)},
        {"sampling": replace(EXPERIMENT.sampling, guidance_scale=2.0)},
        {"evaluate": EvaluateConfig(every=0, rewards=(), images_per_prompt=3)},
        {"watched": (RewardConfig("jpeg_compressibility"),)},
    ],
)
def test_pictures_of_other_settings_are_others(watched, rooms, tmp_path, other):
    scene = Scene(EXPERIMENT.heldout_prompts)
    for experiment in (EXPERIMENT, replace(EXPERIMENT, **other)):
        rooms(watched, tmp_path, experiment=experiment).albums(RUN, [scene])
    assert len([call for call in watched.calls if call.startswith("picture")]) == 2


def test_where_the_workers_are_makes_no_other_pictures(watched, rooms, tmp_path):
    scene = Scene(EXPERIMENT.heldout_prompts)
    for experiment in (EXPERIMENT, replace(EXPERIMENT, cluster=ClusterConfig(samplers=3))):
        rooms(watched, tmp_path, experiment=experiment).albums(RUN, [scene])
    assert watched.calls == ["start tiny", "picture 2"]


def test_an_album_is_put_together_without_a_second_copy_of_its_pictures():
    alive = WeakSet()

    def chunks():
        for place in range(4):
            images = torch.full((2, 2, 2, 3), place, dtype=torch.uint8)
            alive.add(images)
            yield Judgement(("f", "f"), images, {"r": torch.tensor([1.0, 2.0])}, {})
            del images
            assert len(alive) <= 1

    found = Album.of(Scene(("f", "g", "h", "i"), pictures=True), 2, chunks())
    assert found.images[:, :, 0, 0, 0].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_one_runtime_for_one_model_and_another_for_another(watched, rooms):
    scene = Scene(EXPERIMENT.heldout_prompts)
    asked = rooms(watched, model=replace(EXPERIMENT.model, path="another"))
    for who in asked.contenders:
        asked.albums(who, [scene])
    asked.close()
    starts = [call for call in watched.calls if not call.startswith("picture")]
    assert starts == ["start tiny", "close", "start another", "close"]


def test_workers_know_every_prompt_from_the_start(watched, tmp_path):
    told = []
    asked = RuntimeStudio(
        EXPERIMENT,
        {BASE: Policy(ModelConfig(), None)},
        tmp_path,
        ("k", "f"),
        lambda plan: told.append(plan) or watched(plan),
    )
    asked.albums(BASE, [Scene(("k",))])
    assert told[0].heldout_prompts == ("f", "g", "h", "k")
    assert asked.heldout() == Scene(("f", "g", "h"))


def test_a_lost_learner_costs_nothing_but_time_until_it_is_lost_again_and_again(watched, rooms):
    scene = Scene(EXPERIMENT.heldout_prompts, Compared(), pictures=True)
    (plain,) = rooms(watched).albums(RUN, [scene])
    watched.losses = 2
    (found,) = rooms(watched).albums(RUN, [scene])
    assert torch.equal(plain.images, found.images)
    assert plain.kl.shape == (3, 2, 6)
    assert torch.equal(plain.kl, found.kl)
    watched.losses = 3
    with pytest.raises(LearnerLost):
        rooms(watched).albums(RUN, [scene])
