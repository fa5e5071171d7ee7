"""Ray's own autoscaler, over the groups of cluster.yaml, each node a process here: spot nodes come with a run's demand,
and go when idle."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from experiments.cluster_checks.fake_nodes import Cluster, autoscaling_head
from experiments.cluster_checks.head import ROOT
from experiments.cluster_checks.scene import (
    PATIENCE,
    alone,
    at_work,
    changes,
    connected,
    differences,
    plan,
    pump_until,
    staged,
    under_load,
)
from raypref.cluster.placement import MARKET
from raypref.cluster.runtime import RayRuntime

IDLE_SECONDS = 6
"""After which a node goes that holds nothing."""
OVERRIDES = (
    *("cluster.address=auto", "cluster.samplers=1", "cluster.max_samplers=3", "cluster.idle_timeout=5.0"),
    *("cluster.sampler_gpus=1.0", 'cluster.sampler_labels={"ray.io/market-type" = "spot"}'),
    'cluster.reward_labels={"ray.io/market-type" = "on-demand"}',
    "cluster.chunks_in_flight=1",  # the four chunks of an iteration are then too many for two samplers
)


def impatient(cluster: Cluster) -> Cluster:
    """Where idle nodes go at once."""
    kinds = cluster["available_node_types"]
    return cluster | {
        "available_node_types": {name: kind | {"idle_timeout_s": IDLE_SECONDS} for name, kind in kinds.items()}
    }


def nodes() -> Counter[str]:
    """Nodes that are there, but for the head, by market."""
    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != FAKE_HEAD_NODE_ID]
    return Counter(node["Labels"].get(MARKET, "unknown") for node in alive)


def check(folder: Path) -> dict[str, Any]:
    """A run that begins on an empty cluster, gets an on-demand node for its learner and reward worker and three spot
    nodes, lets two of these go, and gets them again."""

    def grow(runtime: RayRuntime) -> None:
        under_load(runtime, 3, 3)
        seen.append(nodes())
        idle_from = time.monotonic()
        at_work(runtime, 1)
        pump_until(runtime, lambda: nodes()["spot"] == 1)
        shrunk.append(round(time.monotonic() - idle_from))

    def grow_again(runtime: RayRuntime) -> None:
        under_load(runtime, 4, 3)
        seen.append(nodes())

    seen: list[Counter[str]] = []
    shrunk: list[int] = []
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    with autoscaling_head(impatient(cluster), folder) as head, connected(head.gcs):
        assert not nodes()
        run = staged(plan(folder, "autoscaled", *OVERRIDES), {2: grow, 3: grow_again})
        ended, deadline = time.monotonic(), time.monotonic() + PATIENCE
        while nodes():
            assert time.monotonic() < deadline, nodes()
            time.sleep(0.5)
        gone = round(time.monotonic() - ended)
    assert seen == [{"spot": 3, "on-demand": 1}] * 2, seen
    told = changes(run)
    assert ("sampler", "lost") not in told, told
    different = differences(run, alone(folder))
    assert not different, different
    return {"nodes": [0, 4, 2, 4, 0], "seconds_until_two_idle_nodes_went": shrunk[0],
            "seconds_until_all_went": gone, "same_bits": True}  # fmt: skip
