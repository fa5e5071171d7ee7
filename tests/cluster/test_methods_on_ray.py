"""Every method, found by its name, trains on Ray to the same bits as without."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from raypref import methods
from raypref.cluster.runtime import RayRuntime
from raypref.methods.base import Method
from raypref.methods.rdpo import RDPO
from raypref.methods.regression import RegressionMethod
from raypref.registry import named_classes
from raypref.train.experiment import ClusterConfig, Experiment
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime, Runtime
from tests.cluster.reassign import reassign
from tests.conftest import MakeExperiment
from tests.recording import Recording
from tests.smallest import smallest_experiment

METHODS = named_classes(methods, Method)


def quick() -> set[str]:
    """Those that eat rollouts, and of those on labelled pictures one with own samples and one without."""
    chosen: dict[object, str] = {}
    for name, kind in sorted(METHODS.items()):
        chosen.setdefault(kind.own == "none" if issubclass(kind, RegressionMethod) else name, name)
    return set(chosen.values())


QUICK = quick()
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(METHODS)]

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:psi_sign")]


def one_iteration(make: MakeExperiment, method: Method) -> Experiment:
    plan = smallest_experiment(make, method, cluster=ClusterConfig(worker_cpus=0.1, timeout=240.0))
    return replace(plan, run=replace(plan.run, iterations=1))


@pytest.fixture(scope="module")
def runtime(ray_cluster, make_experiment: MakeExperiment) -> Iterator[RayRuntime]:
    started = RayRuntime(one_iteration(make_experiment, RDPO()))
    yield started
    started.close()


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_to_the_same_bits_as_without_ray(runtime: RayRuntime, make_experiment: MakeExperiment, name: str):
    plan = one_iteration(make_experiment, METHODS[name]())
    reassign(runtime, plan)
    checksums = []
    runtimes: tuple[Runtime, ...] = (LocalRuntime(plan), runtime)
    for each in runtimes:
        seen = Recording()
        train(plan, each, seen)
        assert seen.reports[0].pairs > 0
        checksums.append(seen.final_checksum())
    assert checksums[0] == checksums[1]
