"""A run on Ray is the run without Ray, bit for bit, whatever the number of workers and whatever the lag."""

import dataclasses
from pathlib import Path

import pytest
import ray
import torch

from raypref.cluster.runtime import RayRuntime
from raypref.train.experiment import CheckpointConfig, ClusterConfig
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from tests.cluster.conftest import LIVE
from tests.cluster.reassign import reassign
from tests.recording import Recording, small_experiment

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def local_digests(random_model):
    """The checksum of the final weights without Ray, by lag."""
    return {lag: digest(LocalRuntime, small_experiment(random_model, lag=lag)) for lag in (0, 1)}


def digest(runtime_class, experiment) -> str:
    runtime, seen = runtime_class(experiment), Recording()
    try:
        train(experiment, runtime, seen)
    finally:
        runtime.close()
    return seen.final_checksum()


def threads_of_workers(runtime: RayRuntime) -> set[int]:
    """What workers of every role compute with."""
    workers = (*runtime.learner.actors, *runtime.scorers, *(seat.actor for seat in runtime.crew.seats))
    asked = [worker.__ray_call__.remote(lambda worker: torch.get_num_threads()) for worker in workers]
    return set(ray.get(asked, timeout=240))


def test_weights_are_the_same_bits_as_without_ray(workers, random_model, local_digests):
    assert threads_of_workers(workers) == {workers.experiment.run.num_threads}
    assert_bits(workers, random_model, local_digests)


def assert_bits(runtime: RayRuntime, model: Path, local_digests: dict[int, str]) -> None:
    for lag, wanted in local_digests.items():
        plan, seen = small_experiment(model, lag=lag, cluster=runtime.experiment.cluster), Recording()
        reassign(runtime, plan)
        train(plan, runtime, seen)
        assert seen.final_checksum() == wanted


@pytest.mark.parametrize(
    ("samplers", "reward_workers"),
    [(1, 0), *(pytest.param(*counts, marks=pytest.mark.slow) for counts in [(1, 1), (3, 2)])],
)
def test_more_and_fewer_workers_give_the_same_bits(ray_cluster, random_model, local_digests, samplers, reward_workers):
    cluster = dataclasses.replace(LIVE, samplers=samplers, reward_workers=reward_workers)
    runtime = RayRuntime(small_experiment(random_model, cluster=cluster))
    assert len(runtime.scorers) == reward_workers
    try:
        assert_bits(runtime, random_model, local_digests)
    finally:
        runtime.close()


def test_lags_give_different_runs(local_digests):
    assert local_digests[0] != local_digests[1]


@pytest.mark.slow
def test_a_run_that_stops_half_way_resumes_on_ray_with_the_same_bits(ray_cluster, random_model, local_digests):
    experiment = dataclasses.replace(
        small_experiment(random_model),
        checkpoint=CheckpointConfig(every=1, keep=1),
        cluster=ClusterConfig(worker_cpus=0.1, timeout=240.0),
    )
    seen = Recording()
    train(experiment, LocalRuntime(experiment), seen)
    torch.set_num_threads(2)
    runtime, resumed = RayRuntime(experiment), Recording()
    assert torch.get_num_threads() == experiment.run.num_threads  # the driver sums over held-out pictures
    try:
        train(experiment, runtime, resumed, seen.states[1])
    finally:
        runtime.close()
    assert [len(resumed.reports), resumed.final_checksum()] == [2, local_digests[1]]
