"""One process a run directory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raypref.checks import ConfigError
from raypref.lock import locked
from raypref.run import resume, train
from raypref.train.experiment import RunConfig
from tests.toy_runtime import toy_experiment

HOLDER = """
import sys
from pathlib import Path
from raypref.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_process_is_refused_until_the_first_is_dead(tmp_path):
    path = tmp_path / "runs" / "mine"
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    wanted = rf"run directory {re.escape(str(path))}: process {holder.pid} on \S+, since 20\S+ \S+, is working in it"
    with pytest.raises(ConfigError, match=wanted), locked(path):
        pass
    with locked(path.with_name("another")):
        pass
    with pytest.raises(ConfigError, match=wanted), locked(path):  # being refused changes nothing
        pass
    holder.kill()  # SIGKILL: it cannot clean up
    holder.communicate()
    with locked(path):
        assert (path.parent / ".mine.lock").read_text().startswith(f"process {os.getpid()} on ")
    with locked(path):
        pass


@pytest.mark.usefixtures("toy_files")
def test_training_and_resuming_need_the_directory_for_themselves(tmp_path):
    experiment = toy_experiment(run=RunConfig("mine", str(tmp_path), iterations=1, prompts_per_iteration=4))
    path = train(experiment)
    before = sorted(path.rglob("*"))
    with locked(path):
        for again in (lambda: train(experiment, overwrite=True), lambda: resume(path, ["run.iterations=2"])):
            with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* is working in it"):
                again()
    assert sorted(path.rglob("*")) == before
    resume(path, ["run.iterations=2"])
    train(experiment, overwrite=True)


@pytest.mark.usefixtures("toy_files")
@pytest.mark.parametrize("place", ["file/runs", "/proc/runs"])
def test_a_place_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch, place: str):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    experiment = toy_experiment(run=RunConfig("mine", place, prompts_per_iteration=4))
    with pytest.raises(ConfigError, match=r"run directory .*/mine: .* cannot be written to .*run\.output_dir"):
        train(experiment)
