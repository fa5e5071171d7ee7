"""A run in a placement group takes exactly the bundles that were reserved for it, each worker its own."""

import sys

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raypref.cluster.placement import NOT_SPOT, Bundle, placement
from raypref.cluster.reserved import Reserved, group_bundles
from raypref.train.experiment import ClusterConfig

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files

CLUSTER = ClusterConfig(
    samplers=2, max_samplers=5, reward_workers=1, worker_cpus=0.5, sampler_gpus=1.0, reward_gpus=0.25
)


def test_a_bundle_a_worker_and_no_more():
    assert group_bundles(CLUSTER, num_threads=1) == [
        ({"CPU": 0.1}, NOT_SPOT),
        ({"CPU": 0.5}, NOT_SPOT),
        ({"CPU": 0.5, "GPU": 0.25}, {}),
        ({"CPU": 0.5, "GPU": 1.0}, {}),
        ({"CPU": 0.5, "GPU": 1.0}, {}),
    ]


def test_without_ray_a_run_is_one_process():
    cluster = ClusterConfig(runtime="local", learner_gpus=0.5, samplers=4, worker_memory=6.0)
    assert group_bundles(cluster, num_threads=2) == [({"CPU": 2.0, "GPU": 0.5, "memory": 6e9}, NOT_SPOT)]


def bundles(cluster: ClusterConfig, *roles: str) -> list[Bundle]:
    known = {bundle.role: bundle for bundle in placement(cluster)}
    return [known[role] for role in roles]


def test_outside_a_group_workers_go_where_there_is_room(ray_cluster):
    (learner,) = bundles(CLUSTER, "learner")
    assert Reserved(CLUSTER).options(learner) == learner.options()
    assert learner.options()["label_selector"] == NOT_SPOT


@pytest.fixture
def in_a_group(monkeypatch):
    """As if this process were in a group of so many bundles."""

    class Group:
        bundle_count = 5

    monkeypatch.setattr("ray.util.get_current_placement_group", Group)
    monkeypatch.setattr("raypref.cluster.reserved.PlacementGroupSchedulingStrategy", lambda group, index: index)


def test_in_a_group_a_worker_has_the_resources_of_its_bundle_and_the_groups_labels(in_a_group):
    learner, sampler = bundles(CLUSTER, "learner", "sampler")
    reserved = Reserved(CLUSTER)
    given = [reserved.options(bundle) for bundle in (sampler, learner, sampler, sampler)]
    assert [each["scheduling_strategy"] for each in given] == [3, 1, 4, -1]
    assert [each["label_selector"] for each in given] == [None] * 4
    assert [(each["num_cpus"], each["num_gpus"]) for each in given[:2]] == [(0.5, 1.0), (0.5, 0.0)]


class Driver:
    """A process in a group, that starts workers as a run does."""

    def is_reserved(self, cluster: ClusterConfig) -> bool:
        (learner,) = bundles(cluster, "learner")
        return "scheduling_strategy" in Reserved(cluster).options(learner)

    def workers_start(self, cluster: ClusterConfig) -> list[str]:
        reserved = Reserved(cluster)
        wanted = bundles(cluster, "reward worker", "learner", "sampler", "sampler")
        workers = [ray.remote(Worker).options(**reserved.options(bundle)).remote() for bundle in wanted]
        answers = ray.get([worker.answer.remote() for worker in workers], timeout=60)
        ray.kill(workers[-1])
        again = ray.remote(Worker).options(**reserved.options(wanted[-1])).remote()
        return [*answers, ray.get(again.answer.remote(), timeout=60)]


class Worker:
    def answer(self) -> str:
        return "there"


@pytest.fixture(scope="module")
def driver(ray_cluster):
    cluster = ClusterConfig(samplers=2, worker_cpus=0.25)
    resources, labels = zip(*group_bundles(cluster, num_threads=1), strict=True)
    group = placement_group(list(resources), bundle_label_selector=list(labels))
    strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    yield ray.remote(Driver).options(num_cpus=0.1, scheduling_strategy=strategy).remote(), cluster
    remove_placement_group(group)


@pytest.mark.ray
def test_each_worker_has_its_own_bundle_and_a_replacement_the_one_that_is_free(driver):
    process, cluster = driver
    assert ray.get(process.is_reserved.remote(cluster), timeout=60)
    assert ray.get(process.workers_start.remote(cluster), timeout=120) == ["there"] * 5


@pytest.mark.ray
def test_a_group_that_was_made_for_something_else_is_left_alone(driver):
    process, _ = driver
    assert not ray.get(process.is_reserved.remote(ClusterConfig(samplers=3)), timeout=60)
