"""Rollouts and a reward become pairs that can be read back: the better one wins, and a kill costs no finished part."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from raypref import collect as collecting
from raypref.checks import ConfigError
from raypref.cli import app
from raypref.collect import collect, collected, label, load
from raypref.config import load_experiment
from raypref.core.seeding import Key
from raypref.data.preference_source import DataConfig
from raypref.methods.sft import SFT
from raypref.prepare import prepare
from raypref.rewards.colorfulness import Colorfulness
from raypref.run import train
from raypref.train.chunk import pair_chunks
from raypref.train.experiment import ClusterConfig, EvaluateConfig, Experiment
from raypref.train.scorer import Scorer
from tests.conftest import MakeExperiment


def quietly(_: object) -> None:
    pass


@pytest.fixture
def small(make_experiment: MakeExperiment) -> Experiment:
    return make_experiment(cluster=ClusterConfig(runtime="local"))


def test_collected_pairs_are_what_the_reward_prefers_and_can_be_trained_on(small, tmp_path):
    done = collect(small, tmp_path / "pairs", 5, quietly)
    assert (done.pairs, done.ties, done.unscored) == (5, 0, 0)
    rows = parquet.read_table(tmp_path / "pairs").to_pylist()
    for row in rows:
        pictures = [np.asarray(Image.open(io.BytesIO(row[name]))) for name in ("jpg_0", "jpg_1")]
        assert not np.array_equal(*pictures)
        images = torch.stack([torch.from_numpy(picture).permute(2, 0, 1) / 255 for picture in pictures])
        scores = Colorfulness().score(images, ["", ""])
        assert row["label_0"] == float(scores[0] > scores[1])
        assert row["label_1"] == 1 - row["label_0"]
        assert abs(row["score_0"] - float(scores[0])) < 0.02  # pixels are rounded to 8 bits on the way
        assert row["has_label"]
        assert row["caption"] in small.prompts
    assert {row["caption"] for row in rows} == set(small.prompts)
    data = DataConfig(path=str(tmp_path / "pairs"), cache_dir=str(tmp_path / "cache"))
    found = prepare(replace(small, data=data), quietly)
    assert len(found) == 5
    assert len(found.batch(0, 5, Key(0), arms=2)) == 5


def test_collecting_goes_on_where_it_stopped_and_gives_the_same(small, tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "GROUP", 2)
    collect(small, tmp_path / "whole", 5, quietly)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(small, tmp_path / "parts", 5, stop)
    assert collected(tmp_path / "parts").pairs == 2
    told: list[int] = []
    collect(small, tmp_path / "parts", 5, told.append)
    assert told == [4, 5]
    whole, parts = (parquet.read_table(tmp_path / name) for name in ("whole", "parts"))
    assert parts.equals(whole)


def test_more_pairs_of_the_same_settings_extend_a_set(small, tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "GROUP", 2)
    small = replace(small, run=replace(small.run, prompts_per_iteration=2, chunk_size=2))  # a chunk may be cut short
    collect(small, tmp_path / "whole", 5, quietly)
    collect(small, tmp_path / "grown", 3, quietly)
    told: list[int] = []
    assert collect(small, tmp_path / "grown", 5, told.append).pairs == 5
    assert told == [4, 5]
    whole, grown = (parquet.read_table(tmp_path / name) for name in ("whole", "grown"))
    assert grown.equals(whole)
    assert collect(small, tmp_path / "grown", 2, told.append).pairs == 5
    assert told == [4, 5]


def test_a_run_directory_draws_with_what_it_has_trained(toml, tmp_path, undrawn):
    run = train(load_experiment(toml, ["run.iterations=1"]))
    base, nobody = load(toml, [])
    trained, policy = load(run, ["run.seed=0"])
    assert nobody is None
    assert policy is not None
    collect(base, tmp_path / "base", 2, quietly)
    with pytest.raises(ConfigError, match="pairs of other settings"):
        collect(trained, tmp_path / "base", 2, quietly, policy)
    collect(trained, tmp_path / "own", 2, quietly, policy)
    before, after = (parquet.read_table(tmp_path / name).to_pylist() for name in ("base", "own"))
    assert [row["caption"] for row in before] == [row["caption"] for row in after]
    assert all(one["score_0"] != other["score_0"] for one, other in zip(before, after, strict=True))
    averaged = replace(policy, learner=replace(policy.learner, average=policy.learner.history[0].flat / 2))
    with pytest.raises(ConfigError, match="pairs of other settings"):
        collect(trained, tmp_path / "own", 2, quietly, averaged)
    assert {row["model_1"] for row in after} == {"small after 1 iterations"}
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate = .* may change only cluster, reward, sampling"):
        load(run, ["optimizer.learning_rate=1.0"])
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="it has no checkpoint to draw with"):
        load(run, [])


def test_of_a_run_too_no_held_out_prompt_is_drawn_for(toml, toy_files, tmp_path):
    (tmp_path / "heldout.txt").write_text("an owl\na fish\n")
    (tmp_path / "more.txt").write_text("an owl\na horse\n")
    run = train(load_experiment(toml, ["run.iterations=1", "run.heldout_prompts=heldout.txt"]))
    assert load(run, [])[0].prompts == ("a cat", "a dog")
    assert load(run, [f"run.prompts={tmp_path}/more.txt"])[0].prompts == ("a horse",)


def test_only_the_training_reward_is_loaded_and_the_method_has_no_say(small, tmp_path, monkeypatch):
    monkeypatch.setattr(Scorer, "score", lambda *_: pytest.fail("a picture is scored on the way"))
    assert collect(small, tmp_path / "steps", 1, quietly).pairs == 1
    sampling = replace(small.sampling, eta=0.0)  # of which most methods could learn nothing
    judged = EvaluateConfig(rewards=("nobody has such weights",))
    changed = replace(small, method=SFT(), sampling=sampling, evaluate=judged)
    assert collect(changed, tmp_path / "pairs", 1, quietly).pairs == 1


def test_a_folder_keeps_to_its_settings(small, tmp_path):
    collect(small, tmp_path / "pairs", 1, quietly)
    with pytest.raises(ConfigError, match="pairs of other settings"):
        collect(replace(small, run=replace(small.run, seed=1)), tmp_path / "pairs", 1, quietly)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        collect(small, tmp_path / "full", 1, quietly)
    with pytest.raises(ConfigError, match=r"mine\.txt is a file; name a new folder"):
        collect(small, tmp_path / "full" / "mine.txt", 1, quietly)
    assert sorted(file.name for file in (tmp_path / "full").iterdir()) == ["mine.txt"]
    with pytest.raises(ConfigError, match=r"run\.prompts is missing"):
        collect(replace(small, prompts=()), tmp_path / "none", 1, quietly)
    with pytest.raises(ConfigError, match="--pairs 0"):
        collect(small, tmp_path / "none", 0, quietly)


def test_the_command_says_what_it_has_done(toml, tmp_path):
    done = CliRunner().invoke(app, ["collect", str(toml), str(tmp_path / "pairs"), "--pairs", "2", "run.seed=3"])
    assert done.exit_code == 0, done.output
    assert f"2 pairs, 0 ties, 0 without a score: {tmp_path / 'pairs'}" in done.output


def test_labels_of_scores():
    assert label(2.0, 1.0) == (1.0, 0.0)
    assert label(1.0, 2.0) == (0.0, 1.0)
    assert label(1.0, 1.0) == (0.5, 0.5)
    assert label(float("nan"), 1.0) is None


def test_the_pictures_of_a_pair_have_keys_of_their_own_whatever_the_part(small):
    chunks = pair_chunks(small, range(3, 7))
    drawn = [(prompt, key) for chunk in chunks for prompt, key in zip(chunk.prompts, chunk.keys, strict=True)]
    assert len({key for _, key in drawn}) == 8
    assert all(drawn[first][0] == drawn[first + 1][0] for first in range(0, 8, 2))
    whole = [(p, k) for chunk in pair_chunks(small, range(7)) for p, k in zip(chunk.prompts, chunk.keys, strict=True)]
    assert drawn == whole[6:]
