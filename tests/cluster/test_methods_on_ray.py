"""Every method, found by its name, trains on Ray to the same bits as without."""

from dataclasses import replace

import pytest

from raypref import methods
from raypref.cluster.runtime import RayRuntime
from raypref.methods.base import Method
from raypref.registry import named_classes
from raypref.train.experiment import ClusterConfig
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime, Runtime
from tests.conftest import MakeExperiment
from tests.recording import Recording
from tests.smallest import smallest_experiment

METHODS = named_classes(methods, Method)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:psi_sign")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_trains_to_the_same_bits_as_without_ray(ray_cluster, experiment: MakeExperiment, name: str):
    plan = smallest_experiment(experiment, METHODS[name](), cluster=ClusterConfig(worker_cpus=0.1, timeout=240.0))
    plan = replace(plan, run=replace(plan.run, iterations=1))
    checksums = []
    for kind in (LocalRuntime, RayRuntime):
        runtime: Runtime = kind(plan)
        seen = Recording()
        try:
            train(plan, runtime, seen)
        finally:
            runtime.close()
        assert seen.reports[0].pairs > 0
        checksums.append(seen.final_checksum())
    assert checksums[0] == checksums[1]
