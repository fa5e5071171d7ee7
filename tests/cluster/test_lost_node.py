"""A node that goes takes its sampler and finished rollouts along; the run's bits do not change."""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from raypref.cluster.runtime import RayRuntime
from raypref.core.search import Search
from raypref.methods.rdpo import RDPO
from raypref.train.experiment import ClusterConfig, RunConfig
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from tests.recording import Recording, small_experiment

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Outage(Recording):
    """Takes a node away while the next iteration's rollouts lie on it, half of them finished."""

    def __init__(self, runtime, cluster, node):
        super().__init__()
        self.runtime, self.cluster, self.node = runtime, cluster, node

    def updated(self, iteration, report, pairs, seconds):
        super().updated(iteration, report, pairs, seconds)
        if iteration == 0:
            jobs = self.runtime._jobs[1]
            while not any(job.result for job in jobs):
                self.runtime.pool._pump([], time.monotonic() + 60)
            self.cluster.add_node(num_cpus=1, num_gpus=1)
            self.cluster.remove_node(self.node, allow_graceful=False)


def lose_a_node(model: Path) -> None:
    """The whole test, in a process of its own: it needs a cluster of several nodes."""
    experiment = dataclasses.replace(
        small_experiment(model),
        # Rollouts of some hundred kilobytes: smaller ones travel with the answer and are never lost.
        method=RDPO(beta=10.0, search=Search(steps=(0, 1, 2, 3, 4), candidates=6)),
        run=RunConfig(iterations=3, prompts_per_iteration=24, chunk_size=8, lag=1),
        # On nodes that say they have a GPU: only there is the sampler.
        cluster=ClusterConfig(address="auto", sampler_gpus=1.0, worker_cpus=0.5, timeout=240.0),
    )
    whole = Recording()
    train(experiment, LocalRuntime(experiment), whole)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1}
    )  # room for the reward worker and the learner
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    node = cluster.add_node(num_cpus=1, num_gpus=1)
    runtime = RayRuntime(experiment)
    seen = Outage(runtime, cluster, node)
    places = {place["NodeID"] for place in ray.nodes()}
    train(experiment, runtime, seen)
    assert len(places) == 2
    assert len([place for place in ray.nodes() if not place["Alive"]]) == 1
    assert not seen.losses
    assert seen.final_checksum() == whole.final_checksum()
    assert [report.metrics for report in seen.reports] == [report.metrics for report in whole.reports]
    runtime.close()
    ray.shutdown()
    cluster.shutdown()


def test_a_lost_node_changes_no_bit(random_model):
    folder = tempfile.mkdtemp(prefix="ray")  # pytest's own folders are too long for Ray's sockets
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.test_lost_node", str(random_model)],
        env={**os.environ, **settings, "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=400,
    )
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert "answers were lost with the node that held them" in done.stderr


if __name__ == "__main__":
    lose_a_node(Path(sys.argv[1]))
