"""A run's metrics: what is counted, and that the dashboard asks for what exists."""

import json
import re
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import pytest
import requests

from experiments.chaos import command
from experiments.cluster_checks.head import ray_head
from raypref.cluster.metrics import COUNTERS, GAUGES, RunMetrics, published
from raypref.train.experiment import ClusterConfig, RunConfig
from raypref.train.learner import UpdateReport

DASHBOARD = json.loads(Path("deploy/grafana.json").read_text())


def test_the_dashboard_draws_every_metric_and_no_other():
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    assert asked == {published(name) for name in COUNTERS | GAUGES}
    for query in queries:
        assert query.count("(") == query.count(")")
        assert 'run=~"$run"' in query
        # It begins with the first failure: an increase over time would never show that one.
        assert published("failures") not in query or "increase" not in query
        assert all(name.endswith("_total") for name in re.findall(r"(?:rate|increase)\((\w+)", query))
    (variable,) = [each for each in DASHBOARD["templating"]["list"] if each["name"] == "run"]
    assert variable["query"]["query"] == f"label_values({published('iteration')}, run)"


def test_panels_have_names_and_do_not_overlap():
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["title"] and panel["description"] for panel in DASHBOARD["panels"])


class Kept:
    """A metric that keeps what it is told."""

    written: ClassVar[dict] = defaultdict(list)

    def __init__(self, name, description, tag_keys):
        self.name, self.keys = name, set(tag_keys)

    def set_default_tags(self, tags):
        self.tags = tags
        return self

    def inc(self, amount, tags):
        assert amount > 0
        self.set(amount, tags)

    def set(self, amount, tags=None):
        all_tags = self.tags | (tags or {})
        assert set(all_tags) == self.keys
        self.written[self.name, all_tags.get("role", all_tags.get("node"))].append(amount)


@pytest.fixture
def written(monkeypatch):
    monkeypatch.setattr(Kept, "written", defaultdict(list))
    monkeypatch.setattr("raypref.cluster.metrics.Counter", Kept)
    monkeypatch.setattr("raypref.cluster.metrics.Gauge", Kept)
    return Kept.written


def report(**changes):
    seconds = {"denoising": 0.0, "syncing": 0.5, "rewarding": 0.0, "learning": 0.0}
    return UpdateReport(
        **{"metrics": {}, "by_step": {}, "alarms": {}, "failures": {}, "pairs": 6, "seconds": seconds, "syncs": 2}
        | changes
    )


def test_what_an_iteration_counts(experiment, written, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("raypref.cluster.metrics.time.perf_counter", lambda: now[0])
    run = RunConfig(name="counted", prompts_per_iteration=2, chunk_size=1, lag=1)
    metrics = RunMetrics(experiment(run=run, cluster=ClusterConfig(samplers=2)))
    lost = {"sampler": 1}
    metrics.updated(0, report(failures={"timed out": 3}), 2.0, 4, lost, {"10.0.0.1": 2})
    assert ("raypref_idle_share", "samplers") not in written
    lost["sampler"] = 3
    now[0] += 10
    metrics.updated(1, report(pairs=0), 0.25, 0, lost, {"10.0.0.2": 1})
    assert written["raypref_pairs", None] == [6]
    assert written["raypref_syncs", None] == [2, 2]
    assert written["raypref_sync_seconds", None] == [0.5, 0.5]
    assert written["raypref_failures", "reward"] == [3]
    assert written["raypref_failures", "sampler"] == [1, 2]
    assert written["raypref_iteration", None] == [1, 2]
    assert written["raypref_staleness", None] == [0, 1]
    assert written["raypref_samplers", None] == [2.0, 0.25]
    assert written["raypref_queued_chunks", None] == [4, 0]
    assert written["raypref_samplers_on_node", "10.0.0.1"] == [2, 0]  # which has gone
    assert written["raypref_samplers_on_node", "10.0.0.2"] == [1]
    assert written["raypref_idle_share", "learner"] == [1.0]
    assert written["raypref_idle_share", "samplers"] == [pytest.approx(1 - 0.5 / (0.25 * 10))]  # of those that came


def seen_by_prometheus(address, run):
    """Names of a run's metrics."""
    try:
        text = requests.get(address, timeout=30).text
    except requests.RequestException:  # not up yet
        return set()
    return {line.partition("{")[0] for line in text.splitlines() if f'run="{run}"' in line}


@pytest.mark.ray
@pytest.mark.slow
def test_prometheus_and_the_dashboard_see_a_run(tmp_path):
    wanted = {published(name) for name in COUNTERS | GAUGES} - {published("failures")}
    settings = [f"run.output_dir={tmp_path}", "run.name=seen", "run.iterations=500", "evaluate.every=0"]
    with ray_head() as head:
        arguments = command("train", "experiments/chaos.toml", *settings, f"cluster.address={head.gcs}")
        driver = subprocess.Popen(arguments, env=head.environment, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 200
            while not wanted <= (found := seen_by_prometheus(head.metrics, "seen")) and time.monotonic() < deadline:
                assert driver.poll() is None
                time.sleep(1)
            actors = requests.get(f"{head.dashboard}/logical/actors", timeout=30).json()["data"]["actors"].values()
        finally:
            driver.terminate()
            driver.wait(timeout=60)
    assert wanted <= found
    shown = {re.sub(r"-[0-9a-f]{8}-", "-", actor["name"]): actor["reprName"] for actor in actors}
    assert shown == {
        "seen-learner-0": "learner of seen",
        "seen-reward-1": "reward worker of seen",
        "seen-sampler-2": "sampler of seen",
    }
