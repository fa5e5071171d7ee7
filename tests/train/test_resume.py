"""A run that stops and goes on ends with the same bits as one that did not stop; a run repeats exactly."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from raypref.checks import ConfigError
from raypref.config import load_experiment
from raypref.report import write_report
from raypref.run import resume, train
from raypref.run_directory import RunDirectory
from raypref.train.checkpoint import checkpoints, iteration_of, read_checkpoint, write_checkpoint
from raypref.train.experiment import CheckpointConfig
from raypref.train.folder import Folder
from raypref.train.loop import train as train_loop
from raypref.train.runtime import LocalRuntime
from raypref.train.stopped import StoppedRun
from tests.recording import Recording, small_experiment


class Stop(Exception):
    """The lights go out."""


class StopAfter(Recording):
    """Stops the loop right after the second iteration's checkpoint."""

    def checkpointed(self, state):
        super().checkpointed(state)
        if state.iteration == 2:
            raise Stop


def finished(experiment):
    seen = Recording()
    train_loop(experiment, LocalRuntime(experiment), seen)
    return seen


@pytest.mark.parametrize("lag", [0, 1])
def test_stopping_and_resuming_changes_no_bit(random_model, tmp_path, lag):
    experiment = replace(
        small_experiment(random_model, lag=lag, iterations=4), checkpoint=CheckpointConfig(every=2, keep=1)
    )
    whole, first, second = finished(experiment), StopAfter(), Recording()
    with pytest.raises(Stop):
        train_loop(experiment, LocalRuntime(experiment), first)
    state = read_checkpoint(write_checkpoint(Folder.at(tmp_path), first.states[-1], keep=1))
    assert state.iteration == 2
    train_loop(experiment, LocalRuntime(experiment), second, state)
    assert second.final_checksum() == whole.final_checksum()
    assert [r.metrics for r in first.reports + second.reports] == [r.metrics for r in whole.reports]
    mine, theirs = second.states[-1].learner.optimizer, whole.states[-1].learner.optimizer
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert second.judgements[4][0].images.equal(whole.judgements[4][0].images)


def test_running_twice_gives_the_same_bits_and_another_seed_does_not(random_model):
    first, again = (finished(small_experiment(random_model)).final_checksum() for _ in range(2))
    assert first == again
    assert finished(small_experiment(random_model, seed=1)).final_checksum() != first


def test_checkpoints_are_whole_or_absent_and_old_ones_go(random_model, tmp_path):
    state = finished(small_experiment(random_model, iterations=1)).states[-1]
    for iteration in (1, 2, 3):
        write_checkpoint(Folder.at(tmp_path), replace(state, iteration=iteration), keep=2)
    assert [iteration_of(path) for path in checkpoints(Folder.at(tmp_path))] == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003"]


def test_a_run_directory_holds_everything_and_resumes(toml, monkeypatch):
    whole = RunDirectory(train(load_experiment(toml)))
    for name in ("config.toml", "versions.json", "metrics.jsonl", "timings.jsonl", "summary.json", "report.html"):
        assert (whole.path / name).stat().st_size > 0, name
    assert list(whole.tensorboard.glob("events.*"))
    assert whole.grid(0).exists()
    assert (whole.lora / "pytorch_lora_weights.safetensors").exists()
    summary = json.loads(whole.summary.read_text())
    for figure in ("reward", "diversity"):
        assert set(summary[figure]) >= {"base", "final"}
    assert summary["pairs"] == 48

    half = RunDirectory(train(load_experiment(toml, ["run.name=half", "run.iterations=2"])))
    resume(half.path, ["run.iterations=4"])
    adapters = [load_file(run.lora / "pytorch_lora_weights.safetensors") for run in (whole, half)]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
    falling = train(load_experiment(toml, ["run.name=falling", "run.iterations=1", "optimizer.lr_scheduler=linear"]))
    with pytest.raises(
        ConfigError, match=r"run.iterations = 9: the learning rate of this run falls towards its end at 1"
    ):
        resume(falling, ["run.iterations=9"])
    assert half.metrics.read_bytes() == whole.metrics.read_bytes()
    assert half.evaluations.read_bytes() == whole.evaluations.read_bytes()
    assert [row["iteration"] for row in half.rows(half.timings)] == [1, 2, 3, 4]
    assert half.grid(4).read_bytes() == whole.grid(4).read_bytes()


def test_the_report_is_one_file_with_pictures_and_curves(toml):
    directory = RunDirectory(train(load_experiment(toml, ["run.iterations=1"])))
    page = directory.report.read_text()
    assert page.count("data:image/png;base64,") == 2 * 3  # a strip a prompt, before and after
    assert page.count("<svg") == page.count("<figure>") >= 4
    assert "src='http" not in page
    assert "No guard was tripped." in page
    for iteration in (1, 4):
        directory.append(directory.alarms, {"iteration": iteration, "alarms": {"saturated": 2}, "action": "count"})
    cells = "<td>saturated</td><td>4</td><td>1</td><td>4</td><td>count</td>"
    assert cells in write_report(directory).read_text()


def test_a_run_that_a_guard_stopped_has_a_report_and_goes_on_with_another_guard(toml):
    plain = ["run.iterations=8", "run.prompts_per_iteration=2", "optimizer.batch_size=3", "checkpoint.every=4"]
    twitchy = ["run.name=stopped", "guard.gradient_spike=stop", "guard.spike_factor=1.000001"]
    with pytest.raises(StoppedRun, match=r"gradient_spike .*raypref resume. and the guard set to count"):
        train(load_experiment(toml, [*plain, *twitchy]))
    stopped = RunDirectory(toml.parent / "runs" / "stopped")
    assert "gradient_spike" in stopped.report.read_text()
    resume(stopped.path, ["guard.gradient_spike=count"])
    whole = RunDirectory(train(load_experiment(toml, plain)))
    adapters = [load_file(run.lora / "pytorch_lora_weights.safetensors") for run in (whole, stopped)]
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
