"""A run on labelled pictures, from its config to its report."""

import json
import shutil
from pathlib import Path

import pytest

from raypref.checks import ConfigError
from raypref.config import load_experiment
from raypref.dry_run import dry_run
from raypref.memory import memory
from raypref.run import evaluate_run, resume, train
from raypref.run_directory import RunDirectory
from tests.data.labelled import PAIRS, write_parquet
from tests.labelled import labelled_set


@pytest.fixture
def config(tmp_path: Path, random_model: Path) -> Path:
    labelled_set(tmp_path / "pictures", (4, 8, 8))
    (tmp_path / "heldout.txt").write_text("f\n")
    (tmp_path / "pairs.toml").write_text(f"""
[run]
name = "pairs"
output_dir = "{tmp_path}/runs"
iterations = 2
heldout_prompts = "heldout.txt"
prompts_per_iteration = 4
chunk_size = 2
[model]
path = "{random_model}"
[method]
name = "sft"
[data]
path = "pictures"
[optimizer]
batch_size = 4
micro_batch_size = 2
[sampling]
num_inference_steps = 20
[evaluate]
every = 0
rewards = []
[cluster]
runtime = "local"
""")
    return tmp_path / "pairs.toml"


def test_it_is_written_reported_and_resumed_from_elsewhere(config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(config.parent)
    experiment = load_experiment(config, ["sampling.num_inference_steps=2"])
    assert experiment.prompts == ()
    path = train(experiment)
    directory = RunDirectory.open(path)
    first = directory.rows(directory.metrics)
    assert [row["pairs"] for row in first] == [4, 8]
    assert "reward" not in first[0]
    report = directory.report.read_text()
    assert "sft on" in report
    assert "labelled pictures of pictures, judged by colorfulness, seed 0: 8 pictures in" in report
    assert "Training did not see it, but labelled pictures of pictures." in report
    assert "<h2>Loss</h2>" in report
    for empty in ("Winners and losers", "By step", "What did not teach", "samplers: denoising", "candidates"):
        assert empty not in report
    card = (path / "lora" / "README.md").read_text()
    assert "| trained on | labelled pictures of pictures |\n| judged by | colorfulness |" in card
    assert "Training saw labelled pictures of pictures, and no reward" in card
    assert "sought" not in card
    monkeypatch.chdir("/")
    resume(path, ["run.iterations=3"])
    rows = directory.rows(directory.metrics)
    assert json.dumps(rows[:2]) == json.dumps(first)
    assert len(rows) == 3


def test_who_has_lost_the_encoded_set_can_judge_and_go_on_while_the_data_is_what_it_was(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(config.parent)
    write_parquet(config.parent / "set.parquet")
    path = train(load_experiment(config, ["sampling.num_inference_steps=2", "data.path=set.parquet"]))
    directory = RunDirectory.open(path)
    first = directory.rows(directory.metrics)
    assert Path(directory.experiment().data.path) == (config.parent / "set.parquet").resolve()
    prepared = Path(directory.experiment().data.prepared)
    shutil.rmtree(prepared)
    monkeypatch.chdir("/")
    assert evaluate_run(path).iteration == 2
    resume(path, ["run.iterations=3"])
    assert prepared.is_dir()
    whole = train(load_experiment(config, ["sampling.num_inference_steps=2", "run.name=whole", "run.iterations=3",
                                           f"data.path={config.parent}/set.parquet"]))  # fmt: skip
    told = [RunDirectory.open(each).rows(RunDirectory.open(each).metrics) for each in (path, whole)]
    assert json.dumps(told[0]) == json.dumps(told[1])
    assert json.dumps(told[0][:2]) == json.dumps(first)

    shutil.rmtree(prepared)
    write_parquet(config.parent / "set.parquet", PAIRS[:3])
    with pytest.raises(
        ConfigError, match=r"data\.path = .*set\.parquet': it is not what the run began with, whose set was"
    ):
        resume(path, ["run.iterations=4"])
    (config.parent / "set.parquet").unlink()
    with pytest.raises(ConfigError, match=r"data\.path = .*set\.parquet': it is gone, and so is the set that"):
        resume(path, ["run.iterations=4"])
    assert len(directory.rows(directory.metrics)) == 3
    assert evaluate_run(path).iteration == 3


@pytest.mark.parametrize(
    ("method", "overrides", "problem"),
    [
        ("diffusion_dpo", ['data.images=["jpg_0"]', 'data.labels=["label_0"]'], "holds single pictures, and pairs are"),
        ("kto", ["data.ties=keep"], "has no picture to train on"),
        ("sft", ["data.ties=keep"], "has no desirable picture to train on"),
    ],
)
def test_a_set_that_a_method_cannot_learn_from_is_refused_before_anything_starts(
    config: Path, method: str, overrides: list[str], problem: str
):
    ties = [row | {"label_0": 0.5, "label_1": 0.5} for row in PAIRS] if "data.ties=keep" in overrides else PAIRS
    write_parquet(config.parent / "set.parquet", ties)
    given = [f"data.path={config.parent}/set.parquet", f"data.cache_dir={config.parent}/cache", *overrides]
    experiment = load_experiment(config, ["sampling.num_inference_steps=2", f"method.name={method}", *given])
    with pytest.raises(ConfigError, match=rf"data\.path = .*set\.parquet': .*{problem}"):
        train(experiment)
    assert not RunDirectory.planned(experiment).path.exists()


@pytest.mark.parametrize(
    ("method", "key", "told"),
    [
        # 4 pictures of 1 state; 4 pairs of 2, for policy and reference; and two trajectories of 20 guided steps
        ("sft", "network evaluations an iteration", "0 to sample, 4 to train (policy, once a parent)"),
        ("dspo", "network evaluations an iteration", "0 to sample, 16 to train (reference and policy, once a parent)"),
        (
            "spin",
            "network evaluations an iteration",
            "160 to sample, 16 to train (reference and policy, once a parent)",
        ),
        ("dro", "network evaluations an iteration", "80 to sample, 16 to train (reference and policy, once a parent)"),
        ("dro", "rollout tasks an iteration", "2"),
        ("sft", "rollout tasks an iteration", "0"),
        ("sft", "pictures an iteration", "4, 8 in the run"),
        ("sft", "prompts", "those of pictures to train on, 1 to be judged on"),
    ],
)
def test_what_it_would_cost_is_told(
    config: Path, monkeypatch: pytest.MonkeyPatch, method: str, key: str, told: str
):  # fmt: skip
    monkeypatch.chdir(config.parent)
    experiment = load_experiment(config, [f"method.name={method}"])
    assert dry_run(experiment)[key] == told
    assert "memory of the learner" in memory(experiment)
