"""The pool gives every job to somebody, and a lost worker's jobs to somebody else."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.exceptions import ObjectLostError

from raypref.cluster.crew import Crew, NobodyLeft
from raypref.cluster.pool import AnswersLost, Job, Pool, Quarantined, Silence
from raypref.cluster.whereabouts import Whereabouts
from raypref.train.runtime import LearnerLost
from raypref.train.stopped import StoppedRun
from tests.cluster.named import named

pytestmark = pytest.mark.ray

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files

FAULTS = {
    "dies": lambda: os._exit(1),
    "raises": lambda: [][0],
    "freezes": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "sleeps": lambda: time.sleep(4),
    "is slow": lambda: time.sleep(1),
    "lacks": lambda: lose_an_argument(),
}


def lose_an_argument():
    raise ObjectLostError("0" * 56, "", "")


class Echo:
    """Stands in for a sampler: answers with the chunk's name, which is all that it is given, and its process; fails as
    told, as often as told."""

    def __init__(self, starts=None):
        if starts is not None:
            if Path(starts).exists():
                raise RuntimeError("no second start")
            Path(starts).touch()

    def ready(self):
        return Whereabouts.own()

    def rollout(self, name, fault, marks, times):
        if fault and len(list(Path(marks).iterdir())) < times:
            (Path(marks) / str(time.time())).touch()
            sys.stderr.write(f"{name} {fault}\n")
            sys.stderr.flush()
            FAULTS[fault]()
        return (name, os.getpid()), []

    def square(self, number):
        return number * number

    def stop(self, reason):
        raise StoppedRun(reason)


def jobs(count):
    return [Job("rollout", named(f"chunk {index}"), ("", "", 0)) for index in range(count)]


def bad(name, fault, marks, times):
    return Job("rollout", named(name), (fault, str(marks), times))


def sampler(starts=None):
    return ray.remote(Echo).options(num_cpus=0, max_concurrency=2).remote(starts)


def crew_of(count):
    crew = Crew(sampler, count, count, 60.0, 60.0)
    crew.ask(count)
    return crew


def pool_for(crew, slots=1, timeout=60.0):
    pool = Pool(crew, slots, 60.0)
    pool.wait_ready()
    pool.timeout = timeout
    return pool


@pytest.fixture(scope="module")
def two(ray_cluster):
    """A crew of two that no test loses."""
    crew = crew_of(2)
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def single(ray_cluster):
    """A crew of one, replaced by every test that loses it."""
    crew = crew_of(1)
    yield crew
    crew.close()


def call(pool, fault, marks, times):
    return pool.crew.seats[0].actor.rollout.remote("", fault, str(marks), times)


def answers(pool, work):
    return [answer[0] for answer in ray.get(pool.wait_jobs(work))]


def test_answers_come_in_the_order_of_the_jobs(two):
    pool, work = pool_for(two, slots=2), jobs(7)
    pool.submit(work)
    assert answers(pool, work) == [f"chunk {index}" for index in range(7)]


def test_the_pool_goes_on_while_the_driver_waits_for_another(two):
    pool, work = pool_for(two), jobs(4)
    pool.submit(work)
    assert pool.wait_other(pool.crew.seats[0].actor.square.remote(3), "the square") == 9
    assert answers(pool, work) == [f"chunk {index}" for index in range(4)]


@pytest.mark.parametrize("fault", ["dies", "raises", "freezes"])
def test_a_lost_samplers_job_is_done_again_and_the_sampler_is_replaced(single, tmp_path, fault):
    pool = pool_for(single, timeout=8.0 if fault == "freezes" else 60.0)
    before = pool.crew.seats[0].whereabouts.pid
    work = [bad("bad", fault, tmp_path, 1), *jobs(2)]
    pool.submit(work)
    assert answers(pool, work) == ["bad", "chunk 0", "chunk 1"]
    assert len(work[0].losses) == 1
    assert all(not job.losses for job in work[1:])
    assert {pid for _, pid in ray.get([job.result for job in work])} == {pool.crew.seats[0].whereabouts.pid}
    assert pool.crew.seats[0].whereabouts.pid != before


def test_a_job_that_loses_three_samplers_is_put_aside_and_nobody_else_is_blamed(single, tmp_path):
    for name in ("slow", "deadly"):
        (tmp_path / name).mkdir()
    pool = pool_for(single, slots=2)
    work = [bad("slow chunk", "is slow", tmp_path / "slow", 9), bad("chunk of death", "dies", tmp_path / "deadly", 3)]
    pool.submit(work)
    with pytest.raises(Quarantined) as caught:
        pool.wait_jobs(work)
    text = str(caught.value)
    assert text.startswith("chunk of death has cost 3 samplers")
    assert len(re.findall(r"process \d+ on node [\d.]+ died", text)) == 3
    assert text.count("chunk of death dies") == 3  # the last line of each log
    assert len(work[0].losses) <= 1  # once they died together; from then on the bad one was alone


def test_a_sampler_that_cannot_start_again_is_left_out_until_nobody_is_left(ray_cluster, tmp_path):
    pool = pool_for(crew_of(2))
    (tmp_path / "marks").mkdir()
    (tmp_path / "taken").touch()  # who finds it cannot start
    pool.crew.spawn = lambda: sampler(tmp_path / "taken")
    pool._replace(pool.crew.seats[0], [], "is taken away")
    while len(pool.crew.seats) > 1:
        pool._pump([], time.monotonic() + 60)
    assert (pool.crew.least, pool.crew.most) == (1, 1)
    work = jobs(2)
    pool.submit(work)
    assert answers(pool, work) == ["chunk 0", "chunk 1"]
    pool.submit(work := [bad("bad", "dies", tmp_path / "marks", 1)])
    with pytest.raises(NobodyLeft, match=r"(?s)no sampler can be started: .*no second start"):
        pool.wait_jobs(work)


def test_only_failed_starts_in_a_row_count(single, tmp_path, monkeypatch):
    pool = pool_for(single)
    taken = tmp_path / "taken"
    taken.touch()  # who finds it cannot start
    starts = iter([taken, None] * 2)
    monkeypatch.setattr("raypref.cluster.crew.MAX_LOSSES", 2)
    monkeypatch.setattr(single, "spawn", lambda: sampler(next(starts)))
    for _ in range(2):
        pool._replace(pool.crew.seats[0], [], "is taken away")
        pool.wait_ready()
    pool.submit(work := jobs(1))
    assert answers(pool, work) == ["chunk 0"]


def test_who_answered_while_the_driver_was_busy_is_not_late(two):
    pool = pool_for(two, timeout=1.5)
    pids = [seat.whereabouts.pid for seat in pool.crew.seats]
    pool.submit(work := jobs(2))
    ray.wait(list(pool._running), num_returns=2, timeout=60)
    time.sleep(2.0)
    assert answers(pool, work) == ["chunk 0", "chunk 1"]
    assert [seat.whereabouts.pid for seat in pool.crew.seats] == pids
    assert not any(job.losses for job in work)


def test_forgotten_jobs_do_not_come_back(single, tmp_path):
    pool = pool_for(single)
    pool.submit([bad("forgotten", "dies", tmp_path, 2), *jobs(3)])
    pool.forget()
    work = jobs(1)
    pool.submit(work)
    assert answers(pool, work) == ["chunk 0"]
    assert len(list(tmp_path.iterdir())) == 1


def test_only_what_went_with_a_node_is_done_again(single):
    pool = pool_for(single)
    pool.submit(work := jobs(3))
    before = pool.wait_jobs(work)
    work[1].node = "one that has gone"
    pool.again(work)
    assert [old is new for old, new in zip(before, pool.wait_jobs(work), strict=True)] == [True, False, True]
    pool.again(work)  # where nothing is known to have gone, everything is doubted
    assert not set(before) & set(pool.wait_jobs(work))


def test_a_run_that_stops_itself_says_so_without_a_trace_through_the_worker(two):
    pool = pool_for(two)
    with pytest.raises(StoppedRun) as caught:
        pool.wait_other(pool.crew.seats[0].actor.stop.remote("no pairs"), "the learner")
    assert str(caught.value) == "no pairs"


def test_silence_is_an_error_that_names_who_is_silent(two, tmp_path):
    pool = pool_for(two, timeout=1.0)
    with pytest.raises(Silence, match=r"no answer for 1 s \(cluster.timeout\) from the learner"):
        pool.wait_other(call(pool, "sleeps", tmp_path, 1), "the learner")


def test_lost_weights_are_the_learners_loss_and_lost_answers_are_told_apart(two, tmp_path):
    pool = pool_for(two)
    pool.submit(work := [bad("bad", "lacks", tmp_path, 1), *jobs(1)])
    with pytest.raises(LearnerLost, match="weights"):
        pool.wait_jobs(work)
    pool.forget()
    pool.submit(work := jobs(1))
    assert answers(pool, work) == ["chunk 0"]
    with pytest.raises(AnswersLost):
        pool.wait_other(call(pool, "lacks", tmp_path, 2), "the learner")
