"""A reward worker in an environment of its own, beside a driver that keeps its own. Nothing is downloaded: the package
is a wheel made here."""

import dataclasses
import zipfile
from importlib.util import find_spec

import pytest

from raypref.cluster.environment import NoEnvironment
from raypref.cluster.runtime import RayRuntime
from raypref.rewards import environment
from raypref.rewards.function import Function
from raypref.train.chunk import evaluation_chunks
from raypref.train.experiment import ClusterConfig, EvaluateConfig, RewardConfig
from tests.recording import small_experiment

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]  # each copies the whole environment

ABOUT = "old_reward-1.0.dist-info"
REWARD = """
import sys

import torch
import old_reward
import raypref.models  # there too

def score(images, prompts):
    assert "runtime_resources" in sys.executable
    return torch.full((len(images),), old_reward.SCORE) + 0 * images.mean((1, 2, 3))
"""


@pytest.fixture
def packaged(ray_cluster, monkeypatch, tmp_path, random_model):
    """A run whose reward imports a package that is pinned, and not installed here; and the file of pins."""
    wheel = tmp_path / "old_reward-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("old_reward.py", "SCORE = 42.0\n")
        archive.writestr(f"{ABOUT}/METADATA", "Metadata-Version: 2.1\nName: old-reward\nVersion: 1.0\n")
        archive.writestr(f"{ABOUT}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{ABOUT}/RECORD", "")
    pins = tmp_path / "old.txt"
    pins.write_text(f"old-reward @ {wheel.as_uri()}\n")
    (tmp_path / "my_reward.py").write_text(REWARD)
    monkeypatch.setattr(environment, "PINS", tmp_path)
    monkeypatch.setattr(environment, "_torchvision", list)
    monkeypatch.setattr("raypref.cluster.environment.PIP_OPTIONS", ["--no-deps", "--no-index"])
    monkeypatch.setattr(Function, "environment", "old")
    reward = RewardConfig("function", settings={"path": f"{tmp_path}/my_reward.py:score"})
    cluster = ClusterConfig(worker_cpus=0.1, timeout=900.0)
    plan = small_experiment(random_model)
    return dataclasses.replace(plan, reward=reward, cluster=cluster, evaluate=EvaluateConfig(rewards=())), pins


def test_the_reward_worker_has_the_package_and_the_driver_has_not(packaged):
    experiment, _ = packaged
    runtime = RayRuntime(experiment)
    try:
        runtime.restore(None)
        judged = runtime.picture(evaluation_chunks(experiment))
    finally:
        runtime.close()
    assert {score for part in judged for score in part.scores["function"].tolist()} == {42.0}
    assert find_spec("old_reward") is None


def test_an_environment_that_cannot_be_built_ends_the_run_with_pips_reason(packaged):
    experiment, pins = packaged
    pins.write_text("raypref-nowhere==9\n")
    with pytest.raises(NoEnvironment, match=r"cannot be built.*ERROR: No matching distribution found for raypref"):
        RayRuntime(experiment)
