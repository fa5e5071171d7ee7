"""One small local Ray cluster for all tests that need Ray, and one set of real workers for all that need some."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from raypref.cluster.runtime import RayRuntime
from raypref.train.experiment import ClusterConfig, Experiment
from tests.cluster.reassign import reassign
from tests.recording import small_experiment

LIVE = ClusterConfig(samplers=2, worker_cpus=0.1, timeout=240.0)
"""What an experiment asks for to be given the workers that are up."""


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster of this session's own; runtimes join it instead of starting theirs."""
    folder = tempfile.mkdtemp(prefix="ray")  # pytest's own folders are too long for Ray's sockets
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["OMP_NUM_THREADS"] = "2"  # what workers would compute with that claim no number of their own
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def workers(ray_cluster: None, random_model: Path) -> Iterator[RayRuntime]:
    """Two samplers, a reward worker and a learner: the start of one costs more than small runs do.

    All their tests score by colourfulness: a reward worker that dies starts again as it was started here.
    """
    started = RayRuntime(small_experiment(random_model, cluster=LIVE))
    yield started
    started.close()


@pytest.fixture
def on_ray(workers: RayRuntime) -> Callable[[Experiment], RayRuntime]:
    """The runtime of an experiment whose section [cluster] is `LIVE`, as if it had been started for it."""

    def assigned(experiment: Experiment) -> RayRuntime:
        reassign(workers, experiment)
        return workers

    return assigned
