"""Runs as jobs of a Ray cluster: what travels, what is refused before it does, and what the command line shows."""

import dataclasses
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobDetails, JobStatus

from experiments.chaos import command
from experiments.cluster_checks.head import ROOT, ray_head
from experiments.cluster_checks.submitted_job import check
from raypref.checks import ConfigError, check_rules
from raypref.cli import main
from raypref.cluster import jobs
from raypref.cluster.jobs import Job, JobServer, JobServerError, Output
from raypref.config import load_experiment
from raypref.data.source import PromptSource
from raypref.run import train
from raypref.submit import PACKAGE, resuming_job, training_job

# What travels


def elsewhere(toml, *overrides):
    """An experiment that only the cluster could run."""
    return load_experiment(
        toml, ["run.output_dir=/mnt/raypref/runs", "model.path=/mnt/models/sd15", *overrides], check_rules
    )


def test_the_resolved_config_and_the_prompts_travel(toml, tmp_path):
    experiment = elsewhere(toml, "method.beta=0.3")
    folder = tmp_path / "travels"
    folder.mkdir()
    job = training_job(experiment, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "heldout_prompts.txt", "prompts.txt"]
    there = load_experiment(folder / "config.toml", (), check_rules)
    assert there.prompts == experiment.prompts
    names = {name: PromptSource(f"{name}.txt") for name in ("prompts", "heldout_prompts")}
    assert there == dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, **names))
    assert job.name == "small"
    assert job.command == ("python", "-m", "raypref.cli", "train", "config.toml")
    assert job.runtime_env()["working_dir"] == str(folder)
    assert "py_modules" not in job.runtime_env()
    assert job.metadata["method"] == "rdpo"


def test_files_and_code_travel_where_that_is_asked_for(toml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/reward.py").write_text("def score(images, prompts): ...\n")
    folder = tmp_path / "travels"
    folder.mkdir()
    job = training_job(elsewhere(toml), folder, [Path("mine/reward.py")], overwrite=True, send_code=True)
    assert (folder / "mine/reward.py").read_text() == Path("mine/reward.py").read_text()
    assert job.command[-1] == "--overwrite"
    assert job.runtime_env()["py_modules"] == [str(PACKAGE)]
    again = tmp_path / "again"
    again.mkdir()
    job = resuming_job(Path("/mnt/raypref/runs/x"), again, ["run.iterations=9"], [Path("mine/reward.py")])
    assert (again / "mine/reward.py").is_file()
    assert job.command[3:] == ("resume", "/mnt/raypref/runs/x", "run.iterations=9")
    assert (PACKAGE / "cli.py").is_file()


def test_a_job_is_given_time_for_its_checkpoint(tmp_path):
    told = resuming_job(Path("/mnt/raypref/runs/x"), tmp_path).runtime_env()
    assert int(told["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    by_hand = yaml.safe_load(Path("experiments/jobs/runtime_env.yaml").read_text())
    assert by_hand["env_vars"] == told["env_vars"]


# What is refused


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["run.output_dir=runs"], "run.output_dir = 'runs': below a job's working folder"),
        (["checkpoint.folder=kept"], "checkpoint.folder = 'kept': below a job's working folder"),
        (["method.beta=-1"], "method.beta = -1"),
        (["optimizer.batch_size=7", "optimizer.micro_batch_size=1"], "optimizer.batch_size = 7: it must divide"),
    ],
)
def test_what_cannot_work_is_refused_here(toml, tmp_path, overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        training_job(elsewhere(toml, *overrides), tmp_path)


def test_a_bucket_outlives_the_job(toml, tmp_path):
    training_job(elsewhere(toml, "checkpoint.folder=memory://kept"), tmp_path)


@pytest.mark.parametrize("file", ["/etc/passwd", "../secret.py", "missing.py"])
def test_a_file_that_cannot_travel_is_refused(toml, tmp_path, file):
    with pytest.raises(ConfigError, match="--file"):
        training_job(elsewhere(toml), tmp_path, [Path(file)])


def test_a_file_does_not_take_the_place_of_the_resolved_config(toml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text("[method]\nbeta = 7.0\n")
    folder = tmp_path / "travels"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"--file config\.toml: a file of that name travels anyway"):
        training_job(elsewhere(toml), folder, [Path("config.toml")])


def test_a_relative_run_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="name an absolute path"):
        resuming_job(Path("runs/x"), tmp_path)


def test_a_job_that_works_in_a_copy_refuses_results_there(toml, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://any.zip"}}))
    experiment = load_experiment(toml, ["run.output_dir=runs"])
    with pytest.raises(ConfigError, match=r"run.output_dir = 'runs': below a job's working folder"):
        train(experiment)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "http://127.0.0.1:1",
            "error: http://127.0.0.1:1 is not the address of a Ray dashboard: Failed to connect to Ray at address: "
            "http://127.0.0.1:1. Name that",
        ),
        ("127.0.0.1:8265", "error: 127.0.0.1:8265: write the dashboard's address as a URL"),
    ],
)
def test_no_cluster_is_one_line_and_exit_code_3(toml, monkeypatch, capsys, address, said):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "argv", ["raypref", "submit", str(toml), "--address", address])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert said in capsys.readouterr().err


# What comes back


def test_output_is_passed_on_once_over_several_connections():
    written = []
    output = Output(written.append)
    for connection in (["one\n", "tw"], ["one\ntwo\n"], ["one\n", "two\nth", "ree\n"]):
        output.from_the_beginning()
        for text in connection:
            output.add(text)
    assert "".join(written) == "one\ntwo\nthree\n"


def details(status, code=None):
    why = "the runtime environment could not be made"
    return JobDetails(type="SUBMISSION", entrypoint="any", status=status, driver_exit_code=code, message=why)


class Client:
    """A job server whose connection breaks in the middle of the output."""

    def __init__(self, *details):
        self.details, self.connections = list(details), [["begun\n", None], ["begun\n", "done\n"]]

    async def tail_job_logs(self, name):
        for text in self.connections.pop(0):
            if text is None:
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield text

    def get_job_info(self, name):
        return self.details.pop(0)


@pytest.mark.parametrize(
    ("ending", "code", "printed"),
    [
        (details(JobStatus.SUCCEEDED, 0), 0, "begun\ndone\n"),
        (details(JobStatus.FAILED, 2), 2, "begun\ndone\n"),
        (details(JobStatus.STOPPED), 143, "begun\ndone\n"),
        (details(JobStatus.FAILED), 1, "begun\ndone\nthe runtime environment could not be made\n"),
    ],
)
def test_a_broken_connection_is_taken_up_again(monkeypatch, ending, code, printed):
    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0.0)
    server, written = object.__new__(JobServer), []
    server.client = Client(ending)
    assert server.follow("any", written.append) == code
    assert "".join(written) == printed


def test_a_server_that_stays_away_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(jobs, "RECONNECT_SECONDS", 0.0)
    server = object.__new__(JobServer)
    server.client, server.address = Client(), "http://127.0.0.1:1"
    server.client.connections = [[None]] * jobs.MAX_RECONNECTS
    with pytest.raises(JobServerError, match="does not answer"):
        server.follow("any", print)


# On a real cluster


def run_here(head, *words, **options):
    return subprocess.run(words, env=head.environment, cwd=ROOT, capture_output=True, text=True, timeout=240, **options)


@pytest.fixture(scope="module")
def head():
    with ray_head() as started:
        yield started


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_submitted_job_stops_with_a_checkpoint_and_goes_on_to_the_same_bits(tmp_path):
    found = check(tmp_path)
    assert found["ok"], found
    assert 0 < found["seconds_to_checkpoint"] < found["seconds_to_end"] < jobs.STOP_SECONDS / 2


@pytest.mark.ray
@pytest.mark.slow
def test_a_config_that_the_cluster_refuses_is_the_jobs_exit_code(head, toml):
    missing = ["run.output_dir=/tmp", "model.path=/no/such/model", "--address", head.dashboard]
    done = run_here(head, *command("submit", toml, *missing))
    assert done.returncode == 2
    assert "error: model.path = '/no/such/model': neither" in done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_nobody_waits_where_nobody_is_to(head, toml, tmp_path):
    settings = [f"run.output_dir={tmp_path}/cluster", "cluster.runtime=ray", "cluster.worker_cpus=0.1", "--send-code"]
    done = run_here(head, *command("submit", toml, *settings, "--no-wait", "--address", head.dashboard))
    assert done.returncode == 0
    (told,) = done.stdout.splitlines()
    name = told.split()[1]
    server = JobServer(head.dashboard)
    while not (status := server.client.get_job_status(name)).is_terminal():
        time.sleep(0.5)
    logs = server.client.get_job_logs(name)
    assert status == JobStatus.SUCCEEDED, logs
    lines = [line for line in logs.splitlines() if line.startswith("iteration ")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert "\r" not in logs
    assert "\x1b" not in logs
    assert json.loads((tmp_path / "cluster/small/summary.json").read_text())["iterations"] == 4
    assert server.client.get_job_info(name).metadata["method"] == "rdpo"


def commands(page):
    blocks = re.findall(r"```sh\n(.*?)```", Path(page).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines()]


READY = commands("experiments/jobs/README.md")


def test_the_docs_show_commands_that_are_run():
    assert set(commands("docs/cluster.md")) <= set(READY)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ready_jobs_run_as_they_are_written(head, tmp_path):
    """With fewer and smaller iterations; each goes on from what the one before has left."""
    (tmp_path / "few.txt").write_text("a red fish in the sea\n")
    smaller = [f"run.heldout_prompts={tmp_path}/few.txt", "run.iterations=6", "run.prompts_per_iteration=1"]
    smaller += ["run.chunk_size=1", "optimizer.batch_size=3", "optimizer.micro_batch_size=3"]
    job = "none yet"
    for line in READY:
        line = line.replace("http://127.0.0.1:8265", head.dashboard).replace("/mnt/raypref", str(tmp_path))
        words = shlex.split(line.replace("JOB", job))
        if "stop" in words:
            while not list(tmp_path.glob("runs/tried/checkpoints/000002/SHA256SUMS")):
                assert not JobServer(head.dashboard).client.get_job_status(job).is_terminal()
                time.sleep(0.5)
        done = run_here(head, *words, *(smaller if "experiments/quickstart.toml" in words else []))
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        job = next(iter(re.findall(r"^job (\S+) at", done.stdout, re.MULTILINE)), job)
    finished = [json.loads((tmp_path / "runs" / name / "summary.json").read_text()) for name in ("tried", "by-hand")]
    assert [summary["iterations"] for summary in finished] == [6, 6]


@pytest.mark.ray
@pytest.mark.slow
def test_a_slow_end_is_waited_for(head, tmp_path):
    patient = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(6), print('saved'), exit()))"
    server = JobServer(head.dashboard)
    name = server.submit(Job("slow", ("python", "-u", "-c", f"{patient}; print('up'); time.sleep(100)"), tmp_path))
    while not re.search("^up$", server.client.get_job_logs(name), re.MULTILINE):
        assert not server.client.get_job_status(name).is_terminal()
        time.sleep(0.2)
    server.client.stop_job(name)
    written = []
    assert server.follow(name, written.append) == 128 + signal.SIGTERM
    assert re.search("^saved$", "".join(written), re.MULTILINE)


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_leaves_the_job_alone(head, toml, tmp_path):
    settings = [f"run.output_dir={tmp_path}/left", "run.iterations=400", "--address", head.dashboard]
    words, pipe = command("submit", toml, *settings), subprocess.PIPE
    client = subprocess.Popen(words, env=head.environment, stdout=pipe, stderr=pipe, text=True)
    try:
        name = client.stdout.readline().split()[1]
        assert any(line.startswith("iteration ") for line in client.stdout)
        client.send_signal(signal.SIGINT)
        told = client.communicate(timeout=60)[1]
    finally:
        client.kill()
    assert client.returncode == 130
    assert f"the job goes on; `ray job logs --follow {name}" in told
    server = JobServer(head.dashboard)
    assert server.client.get_job_status(name) == JobStatus.RUNNING
    server.client.stop_job(name)
    assert server.follow(name, len) == 143


@pytest.mark.ray
@pytest.mark.slow
def test_a_token_is_asked_for_and_enough(tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("0123456789abcdef0123456789abcdef")
    wrong.write_text("fedcba9876543210fedcba9876543210")
    with ray_head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(right)) as guarded:
        code = (
            "import sys; from pathlib import Path; from raypref.cluster.jobs import Job, JobServer; "
            f"server = JobServer({guarded.dashboard!r}); "
            f"sys.exit(server.follow(server.submit(Job('t', ('true',), Path({str(tmp_path)!r}))), print))"
        )
        for mode, token in (("disabled", right), ("token", wrong), ("token", right)):
            environment = guarded.environment | {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(token)}
            done = run_here(dataclasses.replace(guarded, environment=environment), sys.executable, "-c", code)
            allowed = (mode, token) == ("token", right)
            assert (done.returncode == 0) == allowed, done.stderr
            assert ("wants a token" in done.stderr and "RAY_AUTH_TOKEN_PATH=FILE" in done.stderr) != allowed
