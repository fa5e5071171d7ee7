"""checkpoint.folder: anywhere that fsspec can write, and refused early where it cannot."""

import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from raypref.checks import ConfigError
from raypref.cli import main
from raypref.run import evaluate_run, resume, train
from raypref.run_directory import RunDirectory
from raypref.train.checkpoint import checkpoints, iteration_of
from raypref.train.experiment import CheckpointConfig, EvaluateConfig, Experiment, RunConfig
from raypref.train.folder import Folder
from tests.toy_runtime import toy_experiment

pytestmark = pytest.mark.usefixtures("toy_files")


def plan(output: Path, folder: str = "", name: str = "mine", iterations: int = 3) -> Experiment:
    return toy_experiment(
        run=RunConfig(name, str(output), iterations=iterations, prompts_per_iteration=4, chunk_size=2),
        checkpoint=CheckpointConfig(every=1, keep=3, folder=folder),
        evaluate=EvaluateConfig(every=2, rewards=()),
    )


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> str:
    return str(tmp_path / "elsewhere") if request.param == "local" else f"memory://{uuid.uuid4()}/checkpoints"


def kept(place: Folder) -> list[int]:
    return [iteration_of(path) for path in checkpoints(place)]


def spoil(path: Folder) -> None:
    path.write("state.safetensors", path.read("state.safetensors")[:-1])


def test_a_run_resumes_from_elsewhere_with_the_same_bits(tmp_path, folder):
    whole = RunDirectory(train(plan(tmp_path / "whole", iterations=5)))
    half = RunDirectory(train(plan(tmp_path, folder)))
    assert kept(Folder.at(folder) / "mine") == [1, 2, 3]
    assert not (half.path / "checkpoints").exists()
    resume(half.path, ["run.iterations=5"])
    assert kept(Folder.at(folder) / "mine") == [3, 4, 5]
    assert half.metrics.read_bytes() == whole.metrics.read_bytes()


def test_a_path_is_found_again_from_another_working_directory(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    path = train(plan(tmp_path / "runs", "elsewhere"))
    monkeypatch.chdir(tmp_path)
    resume(path, ["run.iterations=4"])
    assert kept(Folder.at(tmp_path / "a" / "elsewhere" / "mine")) == [2, 3, 4]


def test_two_runs_do_not_mix_and_a_third_of_the_same_name_is_refused(tmp_path, folder):
    train(plan(tmp_path, folder))
    train(plan(tmp_path, folder, name="yours", iterations=2))
    assert (kept(Folder.at(folder) / "mine"), kept(Folder.at(folder) / "yours")) == ([1, 2, 3], [0, 1, 2])
    with pytest.raises(ConfigError, match=r"checkpoint\.folder = .*mine holds checkpoints of a run of that name"):
        train(plan(tmp_path / "new", folder))
    train(plan(tmp_path / "new", folder, iterations=1), overwrite=True)
    assert (kept(Folder.at(folder) / "mine"), kept(Folder.at(folder) / "yours")) == ([0, 1], [0, 1, 2])


def test_resuming_passes_over_what_is_corrupt_and_says_so(tmp_path, folder, capsys):
    whole = RunDirectory(train(plan(tmp_path / "whole", iterations=5)))
    half = RunDirectory(train(plan(tmp_path, folder)))
    place = Folder.at(folder) / "mine"
    spoil(place / "000003")
    spoil(place / "000002")
    assert evaluate_run(half.path).iteration == 1
    resume(half.path, ["run.iterations=5", "checkpoint.every=5"])
    told = capsys.readouterr().err
    assert [told.count(f"00000{number}/state.safetensors") for number in (3, 2, 1)] == [2, 2, 0]
    assert "the checkpoint of iteration 1 is good, and is used" in told
    assert kept(place) == [1, 5]
    for file in ("metrics", "evaluations"):
        assert getattr(half, file).read_bytes() == getattr(whole, file).read_bytes()


def test_resuming_without_a_good_checkpoint_lists_the_bad_ones(tmp_path):
    directory = RunDirectory(train(plan(tmp_path, iterations=2)))
    place = directory.checkpoints(directory.experiment())
    for path in checkpoints(place):
        spoil(path)
    for command in (resume, evaluate_run):
        with pytest.raises(ConfigError, match=r"every checkpoint in .* is bad: .*000002.*000001.*put back a copy"):
            command(directory.path)
    for path in checkpoints(place):
        path.delete("SHA256SUMS")
    with pytest.raises(ConfigError, match=r"its checkpoints are not in .*/mine/checkpoints; put them"):
        resume(directory.path)


def test_a_run_that_was_ended_before_its_first_checkpoint_begins_anew(tmp_path, capsys):
    whole = RunDirectory(train(plan(tmp_path / "whole")))
    half = RunDirectory.create(plan(tmp_path))  # and killed between its first evaluation and the checkpoint after it
    half.evaluations.write_text(whole.evaluations.read_text().splitlines(keepends=True)[0])
    resume(half.path)
    assert "it has no checkpoint yet: the run begins anew" in capsys.readouterr().err
    for file in ("metrics.jsonl", "evaluations.jsonl"):
        assert (half.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert half.summary.exists()


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["raypref", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_a_package_that_is_not_installed_is_named(toml, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr("raypref.run.start_runtime", lambda experiment: pytest.fail("a worker started"))
    assert command(monkeypatch, "train", str(toml), "checkpoint.folder=s3://bucket/checkpoints") == 2
    error = capsys.readouterr().err
    assert "checkpoint.folder = 's3://bucket/checkpoints'" in error
    assert "run `pip install s3fs`" in error
    assert error.count("\n") == 1
    with pytest.raises(ConfigError, match="pip install s3fs"):
        train(plan(tmp_path, "s3://bucket/checkpoints"))


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint\.folder = 's4://bucket': .*s4.* use a path, or a URL such as"):
        train(plan(tmp_path, "s4://bucket"))


def test_a_folder_that_cannot_be_written_to_is_refused_before_workers_start(tmp_path, monkeypatch):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("403 Forbidden")

    path = train(plan(tmp_path, "memory://forbidden"))
    monkeypatch.setattr("raypref.run.start_runtime", lambda experiment: pytest.fail("a worker started"))
    monkeypatch.setattr(type(Folder.at("memory://x").filesystem), "pipe_file", refuse)
    wanted = r"checkpoint\.folder = 'memory://\S*forbidden': .* cannot be written to \(RuntimeError: 403 Forbidden\)"
    with pytest.raises(ConfigError, match=wanted):
        train(plan(tmp_path / "new", "memory://forbidden"))
    with pytest.raises(ConfigError, match=wanted):
        resume(path, ["run.iterations=4"])
    (tmp_path / "file").write_text("in the way")
    for place in (f"{tmp_path}/file", "/proc/checkpoints"):
        with pytest.raises(ConfigError, match=rf"checkpoint\.folder = '{place}': .* cannot be written to"):
            train(plan(tmp_path / "new", place))
    assert not (tmp_path / "new" / "mine").exists()
