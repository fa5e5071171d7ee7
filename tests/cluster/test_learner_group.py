"""Ranks of a learner are started, asked and lost together, and who is to blame is named."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from raypref.cluster.crew import Crew
from raypref.cluster.learner_group import LearnerGroup
from raypref.cluster.pool import Pool
from raypref.cluster.process_group import ProcessGroup
from raypref.cluster.whereabouts import Whereabouts
from raypref.train.runtime import LearnerLost
from raypref.train.stopped import StoppedRun

pytestmark = pytest.mark.ray

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files

HERE = Whereabouts(0, "1.2.3.4", "", "here")


class Stub:
    """Stands in for a learner; fails while it starts as told, as often as told."""

    def __init__(self, fault, marks, times):
        self.fault, self.marks, self.times = fault, Path(marks), times

    def ready(self):
        if len(list(self.marks.iterdir())) < self.times:
            (self.marks / str(time.time())).touch()
            os._exit(1) if self.fault == "dies" else os.kill(os.getpid(), signal.SIGSTOP)
        return HERE


class StubRank:
    """Stands in for a rank; `update` adds up what all ranks bring, and one of them fails as told."""

    def ready(self):
        return HERE

    def invite(self):
        self.group = ProcessGroup(60.0)
        return self.group.invite()

    def join(self, rank, ranks, meeting):
        self.rank = rank
        self.group = self.group if rank == 0 else ProcessGroup(60.0)
        self.group.join(rank, ranks, meeting)

    def is_waiting(self):
        return self.group.waiting

    def follow(self, method, *arguments):
        getattr(self, method)(*arguments)

    def update(self, fault=""):
        if self.rank == 1:
            if fault == "dies":
                os._exit(1)
            if fault == "is slow":
                time.sleep(30)
            if fault == "stops the run":
                raise StoppedRun("no memory")
        return int(sum(self.group.gather(torch.tensor([self.rank + 1]))))

    def state(self):
        return self.rank


class FrozenRank:
    """Stands in for a rank, without a network, whose import takes longer than all else: in `update` the second freezes,
    and the first waits for it."""

    waiting = False

    def ready(self):
        return HERE

    def invite(self):
        return "anywhere"

    def join(self, rank, ranks, meeting):
        self.rank = rank

    def is_waiting(self):
        return self.waiting

    def follow(self, method):
        getattr(self, method)()

    def update(self):
        if self.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        self.waiting = True
        time.sleep(60)


def group_of(kind, *arguments, ranks=1):
    """A group of nothing but stubs."""
    crew = Crew(lambda: None, 0, 0, 60.0, 60.0)
    options = {"num_cpus": 0, "max_concurrency": ranks}
    return LearnerGroup(lambda: ray.remote(kind).options(**options).remote(*arguments), ranks, Pool(crew, 1, 60.0))


def test_a_learner_that_is_lost_while_it_starts_is_replaced(ray_cluster, tmp_path, caplog):
    group = group_of(Stub, "dies", str(tmp_path), 2)
    group.wait_ready()
    assert group.ask("ready") == (HERE, {})
    assert caplog.text.count("the learner, still starting, was lost while it started; another is started") == 2


def test_where_no_learner_can_be_started_nothing_is_touched(ray_cluster, tmp_path):
    with pytest.raises(LearnerLost, match="no learner can be started"):
        group_of(Stub, "dies", str(tmp_path), 3).wait_ready()


def test_a_learner_that_hangs_is_lost(ray_cluster, tmp_path):
    group = group_of(Stub, "freezes", str(tmp_path), 1)
    group.pool.timeout = 4.0
    with pytest.raises(LearnerLost, match=r"no answer for 4 s \(cluster.timeout\) from the learner"):
        group.ask("ready")
    assert group.lost


def test_ranks_that_are_at_work_when_their_weights_are_gone_are_not_asked_again(ray_cluster, monkeypatch, tmp_path):
    group = group_of(Stub, "dies", str(tmp_path), 0)

    def lose(references, name):
        raise LearnerLost("the weights went with the node that held them")

    monkeypatch.setattr(group.pool, "wait_others", lose)
    with pytest.raises(LearnerLost, match="the weights went"):
        group.ask("ready")
    assert group.lost


@pytest.fixture(scope="module")
def pair(ray_cluster):
    """Two ranks, restarted by every test that loses them."""
    group = group_of(StubRank, ranks=2)
    group.wait_ready()
    yield group
    group.close()


def test_all_ranks_work_and_the_first_answers(pair):
    assert pair.ask("update") == (3, {})
    assert pair.ask("state") == (0, {})


def lose(group, guilty, *fault):
    """Has the group do what loses its second rank."""
    place = "process 0 on node 1.2.3.4"
    group.register.take()
    expected = rf"is lost: rank 0, {place}, waits for the others; rank 1, {place}, {guilty} \("
    with pytest.raises(LearnerLost, match=expected):
        group.ask("update", *fault)
    (lost,) = (change for change in group.register.take().changes if change.kind == "lost")
    assert lost.where == f"rank 1, {place}"


@pytest.mark.parametrize(
    ("fault", "guilty", "timeout"),
    [("dies", "is dead", 60.0), pytest.param("is slow", "is at work", 3.0, marks=pytest.mark.slow)],
)
def test_who_keeps_the_others_waiting_is_named_and_all_are_replaced(pair, fault, guilty, timeout):
    pair.pool.timeout, before = timeout, list(pair.actors)
    lose(pair, guilty, fault)
    pair.pool.timeout = 60.0
    pair.restart()
    assert not set(before) & set(pair.actors)
    assert pair.ask("update") == (3, {})


def test_who_freezes_is_named_and_all_are_replaced(ray_cluster):
    group = group_of(FrozenRank, ranks=2)
    group.wait_ready()
    group.pool.timeout, before = 3.0, list(group.actors)
    lose(group, "gives no sign of life")
    group.pool.timeout = 60.0
    group.restart()
    assert not set(before) & set(group.actors)
    group.close()


def test_what_stops_the_run_on_one_rank_stops_it_at_once(pair):
    began = time.monotonic()
    with pytest.raises(StoppedRun, match="no memory"):
        pair.ask("update", "stops the run")
    assert time.monotonic() - began < 30
    assert not pair.lost
