"""A run on Ray is the run without Ray, bit for bit, whatever the number of workers and whatever the lag."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from raypref.cluster.runtime import RayRuntime
from raypref.train.experiment import CheckpointConfig, ClusterConfig, Experiment
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from tests.cluster.conftest import LIVE
from tests.cluster.reassign import reassign
from tests.recording import Recording, small_experiment

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def local_results(random_model):
    """How a run ends without Ray, by lag."""
    found = {}
    for lag in (0, 1):
        plan, seen = experiment_of(random_model, lag), Recording()
        train(plan, LocalRuntime(plan), seen)
        found[lag] = result(seen)
    return found


def experiment_of(model: Path, lag: int, **sections: Any) -> Experiment:
    """With lag a moving average of the weights is deployed."""
    plan = small_experiment(model, lag=lag, **sections)
    return dataclasses.replace(plan, optimizer=dataclasses.replace(plan.optimizer, ema_decay=0.9 * lag))


def result(seen: Recording) -> tuple[str, str, list[float]]:
    """Of the final weights, of those that are deployed, and the scores of their pictures."""
    last = seen.states[-1]
    (judged,) = seen.judgements[last.iteration]
    return seen.final_checksum(), last.learner.deployed(), judged.scores["colorfulness"].tolist()


def threads_of_workers(runtime: RayRuntime) -> set[int]:
    """What workers of every role compute with."""
    workers = (*runtime.learner.actors, *runtime.scorers, *(seat.actor for seat in runtime.crew.seats))
    asked = [worker.__ray_call__.remote(lambda worker: torch.get_num_threads()) for worker in workers]
    return set(ray.get(asked, timeout=240))


def test_weights_are_the_same_bits_as_without_ray(workers, random_model, local_results):
    assert threads_of_workers(workers) == {workers.experiment.run.num_threads}
    assert_bits(workers, random_model, local_results)


def assert_bits(runtime: RayRuntime, model: Path, local_results: dict[int, object]) -> None:
    for lag, wanted in local_results.items():
        plan, seen = experiment_of(model, lag, cluster=runtime.experiment.cluster), Recording()
        reassign(runtime, plan)
        train(plan, runtime, seen)
        assert result(seen) == wanted


@pytest.mark.parametrize(
    ("samplers", "reward_workers"),
    [(1, 0), *(pytest.param(*counts, marks=pytest.mark.slow) for counts in [(1, 1), (3, 2)])],
)
def test_more_and_fewer_workers_give_the_same_bits(ray_cluster, random_model, local_results, samplers, reward_workers):
    cluster = dataclasses.replace(LIVE, samplers=samplers, reward_workers=reward_workers)
    runtime = RayRuntime(small_experiment(random_model, cluster=cluster))
    assert len(runtime.scorers) == reward_workers
    try:
        assert_bits(runtime, random_model, local_results)
    finally:
        runtime.close()


def test_lags_give_different_runs(local_results):
    assert local_results[0][0] != local_results[1][0]


def test_only_where_it_is_asked_for_another_policy_is_deployed_than_the_newest(local_results):
    assert [weights == deployed for weights, deployed, _ in local_results.values()] == [True, False]


@pytest.mark.slow
def test_a_run_that_stops_half_way_resumes_on_ray_with_the_same_bits(ray_cluster, random_model, local_results):
    experiment = dataclasses.replace(
        experiment_of(random_model, 1),
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
    assert (len(resumed.reports), result(resumed)) == (2, local_results[1])
