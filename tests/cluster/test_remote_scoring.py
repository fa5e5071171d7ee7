"""A reward worker that is lost is replaced, and its pictures are scored by another."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from raypref.cluster.pool import Quarantined
from raypref.cluster.remote_scoring import RemoteScoring
from raypref.cluster.whereabouts import Whereabouts
from raypref.cluster.workers import ScorerWorker
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.scorer import Scorer
from raypref.train.stopped import StoppedRun
from tests.recording import small_experiment
from tests.toy_runtime import ToyDecoder

pytestmark = pytest.mark.ray

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files


class Judge:
    """Scores are the latents' means, both as plain numbers; fails as told, as often as told."""

    def __init__(self, fault, marks, times):
        self.fail(fault, marks, times)

    def fail(self, fault, marks, times):
        self.fault, self.marks, self.times = fault, Path(marks), times

    def ready(self):
        if self.fault == "stays away" and ray.get_runtime_context().was_current_actor_reconstructed:
            time.sleep(600)
        return Whereabouts.own()

    def score(self, latents):
        if len(list(self.marks.iterdir())) < self.times:
            (self.marks / str(time.time())).touch()
            if self.fault in ("dies", "stays away"):
                os._exit(1)
            if self.fault == "freezes":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.fault == "stops":
                raise StoppedRun("enough")
            raise MemoryError("no room")
        return [sum(latent) / len(latent) for latent in latents]


@pytest.fixture(autouse=True)
def plain_numbers(monkeypatch):
    """What is on the way: whoever unpickles a tensor, packed or not, has to import torch, which takes longer than all
    else here."""
    monkeypatch.setattr("raypref.cluster.remote_scoring.pack", lambda request: request.x_0.flatten(1).tolist())
    monkeypatch.setattr("raypref.cluster.remote_scoring.unpack", lambda means: Scores(torch.tensor(means)[:, None]))


def request():
    return ScoreRequest(torch.arange(8.0).reshape(2, 4, 1, 1), ("a", "b"), torch.tensor([0, 0]))


def start(tmp_path, fault, times, workers):
    """Judges by their names."""
    names = [f"{fault}-{times}-{index}-{os.urandom(4).hex()}" for index in range(workers)]
    judges = {
        name: ray.remote(Judge).options(num_cpus=0, max_restarts=-1, name=name).remote(fault, str(tmp_path), times)
        for name in names
    }
    ray.get([judge.ready.remote() for judge in judges.values()])
    return judges


def scoring(tmp_path, fault, times, workers, timeout=60.0):
    judges = start(tmp_path, fault, times, workers)
    return RemoteScoring(list(judges), timeout), list(judges.values())


@pytest.fixture(scope="module")
def lasting(ray_cluster, tmp_path_factory):
    """Two judges that only raise."""
    return start(tmp_path_factory.mktemp("lasting"), "", 0, 2)


def raising(lasting, tmp_path, fault, times):
    ray.get([judge.fail.remote(fault, str(tmp_path), times) for judge in lasting.values()])
    return RemoteScoring(list(lasting), 60.0)


TOLD = r"a reward worker, process \d+ on node [\d.]+, .*; its pictures are scored again; its .*log"


@pytest.mark.parametrize(("fault", "timeout"), [("dies", 60.0), pytest.param("freezes", 12.0, marks=pytest.mark.slow)])
def test_the_next_worker_answers_for_one_that_is_lost(ray_cluster, tmp_path, fault, timeout):
    remote, judges = scoring(tmp_path, fault, 1, workers=2, timeout=timeout)
    before = {place.pid for place in ray.get([judge.ready.remote() for judge in judges])}
    assert torch.equal(remote.score(request()).value, torch.tensor([[1.5], [5.5]]))
    after = ray.get([judge.ready.options(max_task_retries=-1).remote() for judge in judges], timeout=60)
    assert len({place.pid for place in after} - before) == 1
    (change,) = remote.incidents()
    assert re.match(TOLD, str(change), re.DOTALL)
    assert change.kind == "lost"
    assert remote.incidents() == []


def test_one_that_stays_away_keeps_nobody_waiting_who_can_ask_another(ray_cluster, tmp_path):
    remote, judges = scoring(tmp_path, "stays away", 1, workers=2, timeout=600.0)
    for _ in range(4):
        assert torch.equal(remote.score(request()).value, torch.tensor([[1.5], [5.5]]))
    (change,) = remote.incidents()
    assert change.kind == "lost"
    for judge in judges:
        ray.kill(judge)


def test_the_next_worker_answers_for_one_that_raises_and_stays(lasting, tmp_path):
    remote = raising(lasting, tmp_path, "raises", 1)
    before = ray.get([judge.ready.remote() for judge in lasting.values()])
    assert torch.equal(remote.score(request()).value, torch.tensor([[1.5], [5.5]]))
    assert ray.get([judge.ready.remote() for judge in lasting.values()]) == before
    (change,) = remote.incidents()
    assert re.match(TOLD, str(change), re.DOTALL)
    assert change.kind == "failed"


@pytest.mark.slow
def test_a_worker_that_is_silent_from_the_start_is_ended_too(ray_cluster, tmp_path):
    remote, (judge,) = scoring(tmp_path, "dies", 0, workers=1, timeout=30.0)
    os.kill(ray.get(judge.ready.remote()).pid, signal.SIGSTOP)
    assert torch.equal(remote.score(request()).value, torch.tensor([[1.5], [5.5]]))
    assert "still starting, gave no answer for 30 s" in str(remote.incidents()[0])


def test_a_model_that_cannot_be_loaded_once_is_loaded_by_the_next_call(monkeypatch, random_model):
    found = iter([MemoryError("no room"), Scorer(ToyDecoder(), ())])

    def build(experiment):
        if isinstance(answer := next(found), Exception):
            raise answer
        return answer

    monkeypatch.setattr("raypref.cluster.workers.build_scorer", build)
    worker = ScorerWorker(small_experiment(random_model))
    with pytest.raises(MemoryError):
        worker.score(b"")
    assert worker.scorer is worker.scorer


def test_one_worker_alone_is_awaited(ray_cluster, tmp_path):
    remote, _ = scoring(tmp_path, "dies", 2, workers=1)
    assert torch.equal(remote.score(request()).value, torch.tensor([[1.5], [5.5]]))


def test_pictures_that_lose_three_workers_are_put_aside(lasting, tmp_path):
    remote = raising(lasting, tmp_path, "raises", 3)
    with pytest.raises(Quarantined, match=r"pictures of 'a' were with 3 reward workers that failed") as caught:
        remote.score(request())
    assert str(caught.value).count("no room") == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_a_run_that_stops_itself_is_no_fault_of_the_worker(lasting, tmp_path):
    remote = raising(lasting, tmp_path, "stops", 1)
    with pytest.raises(StoppedRun, match="enough"):
        remote.score(request())
