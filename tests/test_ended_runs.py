"""A process that is ended, in order or not, leaves a run that `raypref resume` brings to the very same end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from experiments.chaos import workers
from raypref.cluster.connect import NoCluster, _init
from raypref.config import load_experiment
from raypref.disk import DiskGuard, writing
from raypref.run import resume, train
from raypref.run_directory import RunDirectory
from raypref.signals import ending_in_order, undisturbed
from raypref.train.checkpoint import checkpoints, iteration_of
from raypref.train.folder import Folder
from raypref.train.stopped import Terminated
from tests.recording import Recording

CONFIG = """
[run]
output_dir = "{folder}/runs"
iterations = 6
prompts = "prompts.txt"
heldout_prompts = "prompts.txt"
prompts_per_iteration = 2
chunk_size = 2
[model]
path = "{model}"
[optimizer]
learning_rate = 1e-2
batch_size = 6
micro_batch_size = 3
[sampling]
num_inference_steps = 6
guidance_scale = 1.0
[method]
search.steps = [0, 2, 4]
[evaluate]
every = 2
rewards = []
[checkpoint]
every = {every}
[cluster]
runtime = "{runtime}"
worker_cpus = 0.1
"""

IN_A_JOB = {"runtime_env": {"working_dir": "gcs://a_job.zip"}}


def config(folder: Path, model: Path, every: int, runtime: str) -> Path:
    (folder / "prompts.txt").write_text("a cat\na dog\nan owl\n")
    path = folder / "small.toml"
    path.write_text(CONFIG.format(folder=folder, model=model, every=every, runtime=runtime))
    return path


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "raypref.cli", *map(str, arguments)]
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **quiet}
    )


def end_after(process: subprocess.Popen, metrics: Path, iterations: int, ending: signal.Signals) -> str:
    """Ends a run once its metrics have so many rows; its last words."""
    deadline = time.monotonic() + 240
    while not metrics.exists() or metrics.read_text().count("\n") < iterations:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(ending)
    return process.communicate(timeout=60)[1]


@pytest.fixture(scope="module")
def whole(undrawn, tmp_path_factory, random_model):
    """The run that nothing happens to."""
    toml = config(tmp_path_factory.mktemp("whole"), random_model, 1, "local")
    return RunDirectory(train(load_experiment(toml, ["run.name=whole"])))


@pytest.mark.parametrize(
    ("ending", "every", "runtime", "code"),
    [
        ("SIGKILL", 1, "local", -signal.SIGKILL),
        # The signal comes while the driver waits for a worker, inside Ray.
        pytest.param("SIGTERM", 100, "ray", 128 + signal.SIGTERM, marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_a_run_that_is_ended_goes_on_to_the_same_bits(tmp_path, random_model, whole, ending, every, runtime, code):
    half = RunDirectory(tmp_path / "runs" / "half")
    process = start("train", config(tmp_path, random_model, every, runtime), "run.name=half")
    words = end_after(process, half.metrics, 3, signal.Signals[ending])
    assert process.returncode == code, words
    if ending == "SIGTERM":
        done = iteration_of(checkpoints(half.checkpoints(half.experiment()))[-1])
        assert done >= 2
        kept = f"{half.path} has a checkpoint of iteration {done}; `raypref resume {half.path}` goes on from there"
        assert words.strip().splitlines()[-1] == f"error: ended by SIGTERM; {kept}"
    resume(half.path, ["cluster.runtime=local"])
    for name in ("metrics.jsonl", "evaluations.jsonl", "lora/pytorch_lora_weights.safetensors"):
        assert (half.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    assert [grid.name for grid in sorted(half.images.iterdir())] == [g.name for g in sorted(whole.images.iterdir())]
    for grid in half.images.iterdir():
        assert grid.read_bytes() == (whole.images / grid.name).read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_is_ended_while_its_workers_start_leaves_nothing(tmp_path, random_model):
    process = start("train", config(tmp_path, random_model, 1, "ray"), "run.name=early")
    deadline = time.monotonic() + 60
    while not list(workers(psutil.Process(process.pid))):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cluster = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    words = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM, words
    assert words.strip().splitlines()[-1].startswith("error: ended by SIGTERM before it had begun")
    assert psutil.wait_procs(cluster, timeout=30)[1] == []
    assert not (tmp_path / "runs" / "early").exists()


def ending_after(iteration):
    """What is done with every evaluation: the one after so many iterations ends the run."""
    return lambda evaluation: signal.raise_signal(signal.SIGTERM) if evaluation.iteration == iteration else None


@pytest.mark.parametrize(
    ("job", "command"), [("{}", "raypref resume"), (json.dumps(IN_A_JOB), "raypref submit --resume")]
)
def test_who_ends_a_run_is_told_where_it_stands(toml, monkeypatch, undrawn, capsys, job, command):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job)
    experiment = load_experiment(toml, ["evaluate.every=2", "checkpoint.every=3"])
    path = RunDirectory.planned(experiment).path
    with pytest.raises(Terminated) as early:
        train(experiment, on_evaluation=ending_after(0))
    assert str(early.value) == f"ended by SIGTERM; {path} has no checkpoint yet; `{command} {path}` begins anew"
    with pytest.raises(Terminated) as later:
        resume(path, on_evaluation=ending_after(2))
    kept = f"{path} has a checkpoint of iteration 1; `{command} {path}` goes on from there"
    assert str(later.value) == f"ended by SIGTERM; {kept}"
    capsys.readouterr()
    resume(path)
    assert "goes on from the checkpoint of iteration 1\n" in capsys.readouterr().out


def end_twice(ending, saved):
    with ending_in_order():
        try:
            signal.raise_signal(ending)
        finally:
            signal.raise_signal(signal.SIGTERM)
            saved.append("the checkpoint")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_disturb_what_the_first_began(ending):
    before, saved = signal.getsignal(ending), []
    with pytest.raises(Terminated) as caught:
        end_twice(ending, saved)
    assert saved == ["the checkpoint"]
    assert caught.value.signal_number == ending
    assert signal.getsignal(ending) == before


def test_a_signal_that_a_destructor_swallows_still_ends_the_run():
    with pytest.raises(Terminated), ending_in_order(), contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def ended(run):
    """What a run notes before it ends in order."""
    noted = []
    with pytest.raises(Terminated), ending_in_order():
        run(noted)
    return noted


def test_a_signal_waits_until_what_is_being_written_is_whole(tmp_path):
    class Noting(Recording):
        def alarmed(self, iteration, alarms, action):
            with undisturbed():
                signal.raise_signal(signal.SIGTERM)
            self.noted = ["a row"]
            signal.raise_signal(signal.SIGTERM)
            self.noted.append("its events")

    def run(noted):
        observer = Noting()
        try:
            DiskGuard(observer, partial(writing, tmp_path, Folder.at(str(tmp_path)))).alarmed(0, {}, "count")
            noted.append("after")
        finally:
            noted += observer.noted

    assert ended(run) == ["a row", "its events"]


def test_a_signal_outlives_an_error_of_what_it_waited_for():
    def run(noted):
        with contextlib.suppress(OSError), undisturbed():
            signal.raise_signal(signal.SIGTERM)
            raise OSError("no room")
        noted.append("computed")
        with undisturbed():
            noted.append("written")
        noted.append("after")

    assert ended(run) == ["computed", "written"]


def write_to_a_full_disk():
    with ending_in_order():
        try:
            with undisturbed():
                signal.raise_signal(signal.SIGTERM)
                raise OSError("no room")
        finally:
            with undisturbed():
                pass  # the last lines of a log


def test_an_error_stays_the_reason_although_a_signal_waits():
    with pytest.raises(OSError, match="no room"):
        write_to_a_full_disk()


def test_a_signal_while_ray_starts_is_one_like_any_other(monkeypatch):
    def init(**settings):  # as Ray does
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(Terminated) as caught, ending_in_order():
        _init("local")
    assert caught.value.signal_number == signal.SIGTERM


def test_a_ray_that_does_not_start_is_one_clear_error(monkeypatch):
    def init(**settings):  # as Ray does on a machine that is too busy
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(NoCluster, match=r"timed out during startup.*; try again .* cluster.runtime=local"):
        _init("local")
