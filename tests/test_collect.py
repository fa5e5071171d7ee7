"""Rollouts and a reward become pairs that can be read back: the better one wins, and a kill costs no finished part."""

import io
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
from raypref.collect import collect, collected, label
from raypref.core.seeding import Key
from raypref.data.preference_source import DataConfig
from raypref.prepare import prepare
from raypref.rewards.colorfulness import Colorfulness
from raypref.train.chunk import pair_chunks
from raypref.train.experiment import ClusterConfig, Experiment
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


def test_a_folder_keeps_to_its_settings(small, tmp_path):
    collect(small, tmp_path / "pairs", 1, quietly)
    with pytest.raises(ConfigError, match="pairs of other settings"):
        collect(replace(small, run=replace(small.run, seed=1)), tmp_path / "pairs", 1, quietly)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        collect(small, tmp_path / "full", 1, quietly)
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
