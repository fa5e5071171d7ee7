"""What a checkpoint holds comes back as it was, or is named as corrupt."""

import json
import math
import subprocess
import uuid
from dataclasses import replace

import pytest
import torch

from raypref.train.checkpoint import (
    CorruptCheckpoint,
    TrainState,
    checkpoints,
    discard_after,
    iteration_of,
    newest_good,
    read_checkpoint,
    write_checkpoint,
)
from raypref.train.experiment import CheckpointConfig, GuardConfig, OptimizerConfig, ReferenceConfig
from raypref.train.folder import Folder
from raypref.train.loop import train
from tests.recording import Recording
from tests.toy_runtime import ToyRuntime, toy_experiment, toy_run

TWICE = OptimizerConfig(learning_rate=1e-2, batch_size=6, micro_batch_size=3, num_inner_epochs=2)


def check_equal(found: TrainState, wanted: TrainState) -> None:
    for name in ("iteration", "pairs", "seconds"):
        assert getattr(found, name) == getattr(wanted, name)
    assert found.base_diversity == pytest.approx(wanted.base_diversity, rel=0, nan_ok=True)
    mine, theirs = found.learner, wanted.learner
    assert mine.gradient_level == pytest.approx(theirs.gradient_level, rel=0, nan_ok=True)
    assert (mine.reference.version, mine.reference.updates) == (theirs.reference.version, theirs.reference.updates)
    assert (mine.reference.flat is None) == (theirs.reference.flat is None)
    if theirs.reference.flat is not None:
        assert torch.equal(mine.reference.flat, theirs.reference.flat)
    assert (mine.average is None) == (theirs.average is None)
    if theirs.average is not None:
        assert torch.equal(mine.average, theirs.average)
    assert mine.optimizer.keys() == theirs.optimizer.keys()
    assert all(torch.equal(mine.optimizer[name], value) for name, value in theirs.optimizer.items())
    assert mine.history.keys() == theirs.history.keys()
    for version, weights in theirs.history.items():
        assert mine.history[version].manifest == weights.manifest
        assert torch.equal(mine.history[version].flat, weights.flat)


@pytest.mark.parametrize(("update", "ema_decay"), [("frozen", 0.0), ("ema", 0.0), ("frozen", 0.9)])
def test_every_field_comes_back(tmp_path, update: str, ema_decay: float):
    optimizer = replace(toy_experiment().optimizer, ema_decay=ema_decay)
    plan = toy_experiment(lag=1, iterations=3, reference=ReferenceConfig(update, every=2), optimizer=optimizer)
    state = toy_run(plan)[0].states[-1]
    assert (state.learner.average is None) == (ema_decay == 0)
    assert state.base_diversity > 0
    assert state.learner.gradient_level > 0
    assert (state.learner.reference.flat is None) == (update == "frozen")
    assert state.learner.reference.updates == 6
    check_equal(read_checkpoint(write_checkpoint(Folder.at(tmp_path), state, keep=2)), state)


def test_a_learner_that_has_not_learned_yet_comes_back_too(tmp_path):
    runtime = ToyRuntime(toy_experiment())
    state = TrainState(0, 0, 0.0, 0.25, runtime.state())
    assert math.isnan(state.learner.gradient_level)
    check_equal(read_checkpoint(write_checkpoint(Folder.at(tmp_path), state, keep=2)), state)


class StopAt(Recording):
    """Stops the loop right after the checkpoint of an iteration."""

    def __init__(self, iteration: int) -> None:
        super().__init__()
        self.iteration = iteration

    def checkpointed(self, state: TrainState) -> None:
        super().checkpointed(state)
        if state.iteration == self.iteration:
            raise KeyboardInterrupt


ROLLED_BACK = {2: {"gradient_spike": 1}}


@pytest.mark.parametrize(
    ("lag", "every", "update", "trips"),
    [(0, 1, "ema", {}), (1, 1, "ema", {}), (0, 3, "hard", ROLLED_BACK), (1, 1, "ema", ROLLED_BACK)],
)
def test_resuming_changes_no_bit(tmp_path, lag: int, every: int, update: str, trips: dict[int, dict[str, int]]):
    """With a moving reference, cached outputs, and across a roll-back: stopped after iteration 3, when its version has
    just been rolled back."""
    experiment = toy_experiment(
        lag=lag,
        iterations=5,
        optimizer=TWICE,
        checkpoint=CheckpointConfig(every=every),
        guard=GuardConfig(gradient_spike="roll_back"),
        reference=ReferenceConfig(update, every=3, rate=0.3, pretrained_pull=0.1),
    )
    whole, _ = toy_run(experiment, trips)
    first = StopAt(3)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, ToyRuntime(experiment, trips), first)
    state = read_checkpoint(write_checkpoint(Folder.at(tmp_path), first.states[-1], keep=1))
    assert state.iteration == 3
    second, _ = toy_run(experiment, trips, state)
    assert [report.metrics for report in first.reports + second.reports] == [r.metrics for r in whole.reports]
    assert first.alarms + second.alarms == whole.alarms
    last, wanted = second.states[-1], whole.states[-1]
    assert wanted.learner.reference.version > 1
    check_equal(replace(last, seconds=0.0), replace(wanted, seconds=0.0))


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> Folder:
    return Folder.at(tmp_path if request.param == "local" else f"memory://{uuid.uuid4()}/checkpoints")


def fresh(iteration: int) -> TrainState:
    return TrainState(iteration, 0, 0.0, 0.25, ToyRuntime(toy_experiment()).state())


def kept(folder: Folder) -> list[int]:
    return [iteration_of(path) for path in checkpoints(folder)]


def test_every_filesystem_keeps_the_newest(folder: Folder):
    assert kept(folder) == []
    assert newest_good(folder, pytest.fail) is None
    for iteration in (8, 9, 10):
        write_checkpoint(folder, fresh(iteration), keep=2)
        assert folder.names()[-1] == f"{iteration:06d}"
    assert kept(folder) == [9, 10]
    assert folder.names() == ["000009", "000010"]
    check_equal(newest_good(folder, pytest.fail), fresh(10))


def test_the_checksums_are_those_of_sha256sum(tmp_path):
    path = write_checkpoint(Folder.at(tmp_path), fresh(1), keep=1)
    assert path.names() == ["SHA256SUMS", "state.json", "state.safetensors"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path.path, check=True, capture_output=True)


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGE = {
    "truncated": ("state.safetensors", lambda content: content[:-4]),
    "empty": ("state.safetensors", lambda content: b""),
    "flipped bit": ("state.safetensors", flip),
    "flipped bit of the facts": ("state.json", flip),
    "garbage": ("state.json", lambda content: b"{\x00"),
    "no checksums": ("SHA256SUMS", lambda content: b"\xff\n"),
    "missing tensors": ("state.safetensors", None),
    "missing facts": ("state.json", None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_checkpoint_is_named_and_passed_over(folder: Folder, damage: str):
    for iteration in (1, 2, 3):
        write_checkpoint(folder, fresh(iteration), keep=3)
    name, change = DAMAGE[damage]
    for iteration in (3, 2, 1):
        bad = folder / f"{iteration:06d}"
        if change is None:
            bad.delete(name)
        else:
            bad.write(name, change(bad.read(name)))
        with pytest.raises(CorruptCheckpoint, match=f"{iteration:06d}.*{name}"):
            read_checkpoint(bad)
        told: list[str] = []
        if iteration > 1:
            check_equal(newest_good(folder, told.append), fresh(iteration - 1))
            assert [line[line.index("00000") :][:6] for line in told] == [
                f"{n:06d}" for n in range(3, iteration - 1, -1)
            ]
    with pytest.raises(CorruptCheckpoint, match=r"every checkpoint in .* is bad: .*000003.*000002.*000001"):
        newest_good(folder, told.append)


def test_what_has_the_right_checksums_and_is_no_state_is_corrupt_too(tmp_path):
    path = write_checkpoint(Folder.at(tmp_path), fresh(1), keep=1)
    facts = json.loads(path.read("state.json"))
    for wrong in ("[]", "{", json.dumps(facts | {"manifests": {"1": {}}}), json.dumps(facts | {"reference": {"x": 1}})):
        path.write("state.json", wrong.encode())
        sums = subprocess.run(
            ["sha256sum", "state.safetensors", "state.json"], cwd=path.path, check=True, capture_output=True
        )
        path.write("SHA256SUMS", sums.stdout)
        with pytest.raises(CorruptCheckpoint, match="it is no state of a run"):
            read_checkpoint(path)


class Killed(BaseException):
    """As by SIGKILL: nothing is cleaned up."""


@pytest.mark.parametrize("last", ["", "state.safetensors", "state.json"])
def test_a_kill_between_two_files_leaves_the_checkpoint_before(folder: Folder, monkeypatch, last: str):
    write_checkpoint(folder, fresh(1), keep=1)
    write = Folder.write

    def dying(self: Folder, name: str, content: bytes) -> None:
        if not last:
            raise Killed
        write(self, name, content)
        if name == last:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", dying)
        with pytest.raises(Killed):
            write_checkpoint(folder, fresh(2), keep=1)
    assert kept(folder) == [1]
    check_equal(newest_good(folder, pytest.fail), fresh(1))
    write_checkpoint(folder, fresh(3), keep=2)
    assert folder.names() == ["000001", "000003"]  # what was unfinished is gone


def test_a_complete_checkpoint_is_never_taken_apart_to_be_written_again(folder: Folder, monkeypatch):
    write_checkpoint(folder, fresh(2), keep=1)

    def dying(self: Folder, name: str, content: bytes) -> None:
        raise Killed

    monkeypatch.setattr(Folder, "write", dying)
    write_checkpoint(folder, fresh(2), keep=1)
    check_equal(newest_good(folder, pytest.fail), fresh(2))


def test_what_a_resumed_run_will_write_again_goes_and_nothing_else(folder: Folder):
    for iteration in (1, 2, 3):
        write_checkpoint(folder, fresh(iteration), keep=3)
    (folder / "notes").write("mine.txt", b"mine")
    (folder / "000004").write("state.json", b"unfinished")
    discard_after(folder, 2)
    assert folder.names() == ["000001", "000002", "notes"]
    discard_after(folder, -1)
    assert folder.names() == ["notes"]


def test_names_in_a_checkpoint_are_never_paths(tmp_path):
    """Hostile names in manifests, tensors and checksums: nothing is written or opened, whatever they say."""
    outside = tmp_path / "outside"
    outside.mkdir()
    state = fresh(1)
    version, weights = next(iter(state.learner.history.items()))
    names = ("../../outside/a", f"{outside}/b", *weights.manifest.names[2:])
    hostile = replace(weights, manifest=replace(weights.manifest, names=names, checksum="../../outside/c"))
    state = replace(state, learner=replace(state.learner, history={version: hostile}))
    path = write_checkpoint(Folder.at(tmp_path / "run"), state, keep=1)
    path.write("SHA256SUMS", path.read("SHA256SUMS") + b"0" * 64 + f"  {outside}/d\n".encode())
    before = sorted(tmp_path.rglob("*"))
    assert read_checkpoint(path).learner.history[version].manifest.names == names
    assert sorted(tmp_path.rglob("*")) == before
