"""The pool gives every job to somebody, and a lost worker's jobs to somebody else."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import ray

from raypref.cluster.pool import Job, Pool, Quarantined, Silence
from raypref.cluster.whereabouts import Whereabouts
from raypref.train.chunk import Chunk
from raypref.train.stopped import StoppedRun

pytestmark = pytest.mark.ray

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files

FAULTS = {
    "dies": lambda: os._exit(1),
    "raises": lambda: [][0],
    "freezes": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "sleeps": lambda: time.sleep(600),
}


class Echo:
    """Stands in for a sampler: answers with the chunk's name and its process; fails as told, as often as told."""

    def __init__(self, starts=None):
        if starts is not None:
            if Path(starts).exists():
                raise RuntimeError("no second start")
            Path(starts).touch()

    def ready(self):
        return Whereabouts.own()

    def rollout(self, chunk, fault, marks, times):
        if fault and len(list(Path(marks).iterdir())) < times:
            (Path(marks) / str(time.time())).touch()
            sys.stderr.write(f"{chunk.name} {fault}\n")
            sys.stderr.flush()
            FAULTS[fault]()
        return (chunk.name, os.getpid()), chunk.name

    def square(self, number):
        return number * number

    def stop(self, reason):
        raise StoppedRun(reason)


def jobs(count):
    return [Job("rollout", Chunk(f"chunk {index}", (), ()), ("", "", 0)) for index in range(count)]


def bad(name, fault, marks, times):
    return Job("rollout", Chunk(name, (), ()), (fault, str(marks), times))


def pool_of(count, slots=1, timeout=60.0, starts=None):
    actors = [
        ray.remote(Echo).options(num_cpus=0, max_restarts=-1, max_concurrency=slots).remote(starts)
        for _ in range(count)
    ]
    return Pool(actors, ray.get([actor.ready.remote() for actor in actors]), slots, timeout)


def answers(pool, work):
    return [answer[0] for answer in ray.get(pool.wait_jobs(work))]


def test_answers_come_in_the_order_of_the_jobs(ray_cluster):
    pool, work = pool_of(2, slots=2), jobs(7)
    pool.submit(work)
    assert answers(pool, work) == [f"chunk {index}" for index in range(7)]


def test_the_pool_goes_on_while_the_driver_waits_for_another(ray_cluster):
    pool, work = pool_of(2), jobs(4)
    pool.submit(work)
    assert pool.wait_other(pool.seats[0].actor.square.remote(3), "the square") == 9
    assert answers(pool, work) == [f"chunk {index}" for index in range(4)]


@pytest.mark.parametrize("fault", ["dies", "raises", "freezes"])
def test_a_lost_samplers_job_is_done_again_and_the_sampler_is_replaced(ray_cluster, tmp_path, fault):
    pool = pool_of(2, timeout=20.0 if fault == "freezes" else 60.0)
    before = {seat.whereabouts.pid for seat in pool.seats}
    work = [bad("bad", fault, tmp_path, 1), *jobs(3)]
    pool.submit(work)
    assert answers(pool, work) == ["bad", "chunk 0", "chunk 1", "chunk 2"]
    assert len(work[0].losses) == 1
    assert all(not job.losses for job in work[1:])
    while any(seat.lost for seat in pool.seats):
        pool._pump([], time.monotonic() + 60)
    assert len({seat.whereabouts.pid for seat in pool.seats} - before) == 1


def test_a_job_that_loses_three_samplers_is_put_aside_and_nobody_else_is_blamed(ray_cluster, tmp_path):
    pool = pool_of(1, slots=2)
    work = [jobs(1)[0], bad("chunk of death", "dies", tmp_path, 3)]
    pool.submit(work)
    with pytest.raises(Quarantined) as caught:
        pool.wait_jobs(work)
    text = str(caught.value)
    assert text.startswith("chunk of death has cost 3 samplers")
    assert len(re.findall(r"process \d+ on node [\d.]+ died", text)) == 3
    assert text.count("chunk of death dies") == 3  # the last line of each log
    assert len(work[0].losses) <= 1  # once they died together; from then on the bad one was alone


def test_a_sampler_that_cannot_start_again_is_left_out(ray_cluster, tmp_path):
    (tmp_path / "marks").mkdir()
    lame, pool = pool_of(1, starts=str(tmp_path / "starts")), pool_of(1)
    pool.seats = lame.seats + pool.seats
    work = [bad("bad", "dies", tmp_path / "marks", 1), *jobs(2)]
    pool.submit(work)
    assert answers(pool, work) == ["bad", "chunk 0", "chunk 1"]
    while len(pool.seats) == 2:
        pool._pump([], time.monotonic() + 30)
    assert pool.seats[0] not in lame.seats


def test_forgotten_jobs_do_not_come_back(ray_cluster, tmp_path):
    pool = pool_of(1)
    pool.submit([bad("forgotten", "dies", tmp_path, 1), *jobs(3)])
    pool.forget()
    work = jobs(1)
    pool.submit(work)
    assert answers(pool, work) == ["chunk 0"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_stops_itself_says_so_without_a_trace_through_the_worker(ray_cluster):
    pool = pool_of(1)
    with pytest.raises(StoppedRun) as caught:
        pool.wait_other(pool.seats[0].actor.stop.remote("no pairs"), "the learner")
    assert str(caught.value) == "no pairs"


def test_silence_is_an_error_that_names_who_is_silent(ray_cluster, tmp_path):
    pool = pool_of(1, timeout=1.0)
    with pytest.raises(Silence, match=r"no answer for 1 s \(cluster.timeout\) from the learner"):
        pool.wait_other(
            pool.seats[0].actor.rollout.remote(Chunk("", (), ()), "sleeps", str(tmp_path), 1), "the learner"
        )
    pool.submit(work := [bad("bad", "freezes", tmp_path, 2)])
    with pytest.raises(Silence, match=r"from a sampler that was process \d+ on node [\d.]+ and is lost"):
        pool.wait_jobs(work)
