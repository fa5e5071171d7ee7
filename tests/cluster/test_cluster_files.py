"""The files for `ray up` are what Ray accepts, fit what a run asks for, and grow as they should, offline."""

import copy
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ray._private.label_utils import validate_node_label_syntax
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator

from experiments.cluster_checks.fake_nodes import on_fake_nodes
from raypref.cluster.placement import placement, total
from raypref.cluster.spot_notice import CLOUDS
from raypref.config import load_experiment

FILES = {path: yaml.safe_load(Path(path).read_text()) for path in ("cluster.yaml", "deploy/gcp.yaml")}
SPOT = "ray.io/market-type"


@pytest.fixture(params=FILES)
def cluster(request):
    return copy.deepcopy(FILES[request.param])


def is_spot(kind):
    """As the cloud's own settings say."""
    config = kind["node_config"]
    market = config.get("InstanceMarketOptions", {}).get("MarketType")
    return "spot" in (market, *(rule.get("provisioningModel", "").lower() for rule in config.get("scheduling", [])))


def test_it_satisfies_rays_schema(cluster):
    validate_config(prepare_config(cluster))


def test_its_groups_can_be_played_on_one_machine(cluster):
    AutoscalingConfig(on_fake_nodes(cluster, "10.0.0.1:6379"), skip_content_hash=True)


def test_groups_are_bounded_and_labelled(cluster):
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert not is_spot(head)
    for kind in types.values():
        validate_node_label_syntax(kind["labels"])
        assert 0 <= kind["min_workers"] <= kind["max_workers"]
        assert kind["idle_timeout_s"] > 0
        assert kind["labels"][SPOT] == ("spot" if is_spot(kind) else "on-demand")
    assert sum(kind["max_workers"] for kind in types.values()) == cluster["max_workers"]
    assert {kind["labels"]["role"]: is_spot(kind) for kind in types.values()} == {"learner": False, "sampler": True}
    assert types["learner"]["idle_timeout_s"] > types["sampler"]["idle_timeout_s"]


def test_the_gpu_experiment_fits(cluster):
    recipe = load_experiment(Path("experiments/rdpo/table1/sd15_aesthetic_rdpo.toml").resolve())
    bundles = {bundle.role: [bundle] for bundle in placement(recipe.cluster)}
    types = cluster["available_node_types"]
    assert total(bundles["sampler"], "GPU", most=True) <= types["sampler"]["max_workers"]
    assert total(bundles["learner"] + bundles["reward worker"], "GPU") <= types["learner"]["resources"]["GPU"]


def test_what_its_commands_name_exists(cluster):
    project = "/home/ubuntu/raypref"
    assert cluster["file_mounts"][project] == "."
    commands = [command for key, value in cluster.items() if key.endswith("_commands") for command in value]
    scripts = {script for command in commands for script in re.findall(r"~/raypref/(\S+)", command)}
    assert scripts == {"deploy/nodes/setup.sh", "deploy/nodes/environment.sh"}
    assert all(Path(script).is_file() for script in scripts)
    poller = next(command for command in cluster["worker_start_ray_commands"] if "spot_notice" in command)
    assert f"-m raypref.cluster.spot_notice {cluster['provider']['type']} " in poller
    assert cluster["provider"]["type"] in CLOUDS
    for left_out in ("runs", ".venv", ".git"):
        assert f"**/{left_out}" in cluster["rsync_exclude"]


def test_nobody_without_the_token_gets_in(cluster):
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all(command.startswith(". ~/raypref/deploy/nodes/environment.sh && ") for command in starts)
    assert any("--dashboard-host=127.0.0.1" in command for command in starts)


RECORD = """#!/bin/bash
echo "$(basename "$0") $*" >> "$HOME/calls"
if [ "$*" = "apt-get update -q" ] && mkdir "$HOME/locked" 2> /dev/null; then exit 100; fi
if [ "$*" = "-m venv $HOME/venv" ]; then mkdir -p "$HOME/venv/bin"; cp "$0" "$HOME/venv/bin/pip"; fi
[ "$(basename "$0")" != mountpoint ]
"""


def test_a_node_is_set_up_with_this_project_and_the_disk(tmp_path):
    """Every command but bash's own only notes how it was called; apt's lists are locked at first."""
    for name in ("sudo", "mountpoint", "python3", "sleep"):
        (tmp_path / name).write_text(RECORD)
        (tmp_path / name).chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin", "USER": "ubuntu"}
    command = ["bash", "deploy/nodes/setup.sh", "10.0.0.2:/raypref"]
    subprocess.run(command, check=True, env=environment)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[:3] == ["sudo apt-get update -q", "sleep 10", "sudo apt-get update -q"]
    assert "sudo mount -t nfs -o hard,noresvport 10.0.0.2:/raypref /mnt/raypref" in calls
    project = Path.cwd()
    assert calls[-1] == f"pip install --quiet --constraint {project}/constraints.txt --editable {project}"
    assert (project / "constraints.txt").is_file()
    (tmp_path / "venv/bin/activate").write_text("PATH=$HOME/venv/bin:$PATH\n")
    command = ["bash", "-c", ". deploy/nodes/environment.sh && env"]
    told = subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout.splitlines()
    assert {"RAY_AUTH_MODE=token", "RAY_JOB_STOP_WAIT_TIME_S=120", "HF_HOME=/mnt/raypref/huggingface"} <= set(told)


def grown(cluster, *demands):
    """What Ray would start for demands (label selectors, count) of a GPU each, and how many of them it cannot serve."""
    config = AutoscalingConfig(cluster, skip_content_hash=True)
    operators = {
        "": LabelSelectorOperator.LABEL_OPERATOR_IN,
        "!": LabelSelectorOperator.LABEL_OPERATOR_NOT_IN,
    }
    requests = []
    for selectors, count in demands:
        rules = [
            (label, operators[selector[: selector.startswith("!")]], [selector.removeprefix("!")])
            for label, selector in selectors.items()
        ]
        requests += [ResourceRequestUtil.make({"CPU": 0.5, "GPU": 1}, label_selectors=[rules])] * count
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_worker_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(requests),
        )
    )
    started = {launch.instance_type: launch.count for launch in reply.to_launch}
    started.pop("head", None)  # there is none yet in this simulation
    return started, len(reply.infeasible_resource_requests)


@pytest.mark.parametrize(
    ("demands", "started", "unserved"),
    [
        ([({}, 4)], {"sampler": 4}, 0),
        ([({SPOT: "spot"}, 4), ({SPOT: "!spot"}, 1)], {"sampler": 4, "learner": 1}, 0),
        ([({"role": "sampler"}, 20), ({"role": "learner"}, 1)], {"sampler": 8, "learner": 1}, 12),
        ([({}, 9)], {"sampler": 8, "learner": 1}, 0),
        ([({SPOT: "!spot"}, 2)], {"learner": 1}, 1),
        ([({"role": "smapler"}, 1)], {}, 1),
        ([], {}, 0),
    ],
)
def test_it_grows_by_what_is_asked_for(cluster, demands, started, unserved):
    assert grown(cluster, *demands) == (started, unserved)
