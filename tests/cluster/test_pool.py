"""The pool gives every job to somebody, and a lost worker's jobs to somebody else."""

import os
import sys
import time

import pytest
import ray

from raypref.cluster.pool import Job, Pool, Silence
from raypref.train.chunk import Chunk
from raypref.train.stopped import StoppedRun

pytestmark = pytest.mark.ray

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files


class Echo:
    """Stands in for a sampler: slow to start, answers with the chunk's name; dies, fails or sleeps when told."""

    def __init__(self, friend=None):
        self.friend = friend
        time.sleep(1)

    def ready(self):
        return True

    def ask_friend(self, chunk, weights):
        return ray.get(self.friend.rollout.remote(chunk, weights)), chunk.name

    def rollout(self, chunk, weights):
        if weights and not os.path.exists(weights):
            open(weights, "w").close()
            os._exit(1)
        return chunk.name, chunk.name

    def picture(self, chunk, weights):
        time.sleep(60)
        return chunk.name, chunk.name

    def square(self, number):
        return number * number

    def stop(self, reason):
        raise StoppedRun(reason)


def jobs(count, weights=None, method="rollout"):
    return [Job(method, Chunk(f"chunk {index}", (), ()), (weights,)) for index in range(count)]


def actors(count, **options):
    return [ray.remote(Echo).options(num_cpus=0, **options).remote() for _ in range(count)]


def test_answers_come_in_the_order_of_the_jobs(ray_cluster):
    pool = Pool(actors(2), slots=2, timeout=60.0)
    work = jobs(7)
    pool.submit(work)
    assert ray.get(pool.wait_jobs(work)) == [f"chunk {index}" for index in range(7)]


def test_the_pool_goes_on_while_the_driver_waits_for_another(ray_cluster):
    workers = actors(2)
    pool, work = Pool(workers, slots=1, timeout=60.0), jobs(4)
    pool.submit(work)
    assert pool.wait_other(workers[0].square.remote(3), "the square") == 9
    assert ray.get(pool.wait_jobs(work)) == [f"chunk {index}" for index in range(4)]


def test_a_lost_workers_job_is_done_again(ray_cluster, tmp_path):
    pool, work = Pool(actors(1, max_restarts=-1), slots=1, timeout=60.0), jobs(3, str(tmp_path / "died"))
    pool.submit(work)
    assert ray.get(pool.wait_jobs(work)) == ["chunk 0", "chunk 1", "chunk 2"]
    assert (tmp_path / "died").exists()


def test_another_actors_death_inside_a_job_is_not_the_samplers_own(ray_cluster, tmp_path):
    (friend,) = actors(1)
    pool = Pool([ray.remote(Echo).options(num_cpus=0).remote(friend)], slots=1, timeout=60.0)
    work = jobs(1, str(tmp_path / "died"), method="ask_friend")
    pool.submit(work)
    with pytest.raises(ray.exceptions.RayTaskError, match="ask_friend"):
        pool.wait_jobs(work)


def test_a_run_that_stops_itself_says_so_without_a_trace_through_the_worker(ray_cluster):
    (worker,) = actors(1)
    with pytest.raises(StoppedRun) as caught:
        Pool([worker], slots=1, timeout=60.0).wait_other(worker.stop.remote("no pairs"), "the learner")
    assert str(caught.value) == "no pairs"


def test_silence_is_an_error_that_names_the_chunk(ray_cluster):
    pool, work = Pool(actors(1), slots=1, timeout=0.5), jobs(1, method="picture")
    pool.submit(work)
    with pytest.raises(Silence, match=r"no answer for 0.5 s from: chunk 0"):
        pool.wait_jobs(work)
