"""Ray's metrics of a run, written by the driver once an iteration: for Prometheus, and for deploy/grafana.json."""

import time
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from raypref.idle import idle_shares
from raypref.train.experiment import Experiment
from raypref.train.learner import UpdateReport

COUNTERS = {
    "pairs": "Pairs that the learner trained on.",
    "syncs": "Installations of new weights, all of them proved.",
    "sync_seconds": "Samplers' seconds of installing and proving weights.",
    "failures": "Workers lost, by role; for the role `reward`, pictures without a score.",
}
GAUGES = {
    "iteration": "Finished iterations.",
    "staleness": "Iterations between the weights that the last rollouts were drawn with and the newest.",
    "samplers": "Mean number of samplers at work in the last iteration.",
    "samplers_on_node": "Samplers at work on a node, at the end of an iteration.",
    "queued_chunks": "Chunks that no sampler has begun, at the end of an iteration.",
    "idle_share": "Share of the last iteration that the workers of a role had nothing to do; not after an evaluation.",
}
TAGS = {"failures": "role", "idle_share": "role", "samplers_on_node": "node"}
"""What a metric is told apart by, beside `run`."""


def published(name: str) -> str:
    """What Prometheus calls a metric: Ray puts `ray_` before it, and `_total` behind a counter."""
    return f"ray_raypref_{name}" + ("_total" if name in COUNTERS else "")


class RunMetrics:
    """The metrics of one run. A driver that is not connected to Ray writes them in vain."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self._ended, self._lost = experiment, 0.0, dict[str, int]()
        self._nodes = set[str]()

        def tags(name: str) -> tuple[str, ...]:
            return ("run", TAGS[name]) if name in TAGS else ("run",)

        run = {"run": experiment.run.name}
        self._counters = {
            name: Counter(f"raypref_{name}", text, tags(name)).set_default_tags(run) for name, text in COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(f"raypref_{name}", text, tags(name)).set_default_tags(run) for name, text in GAUGES.items()
        }

    def updated(
        self,
        iteration: int,
        report: UpdateReport,
        samplers: float,
        queued: int,
        lost: Mapping[str, int],
        nodes: Mapping[str, int],
    ) -> None:
        """After an iteration, at which `samplers` have worked on average; `lost` are the workers lost since the start
        of the run, by role, `nodes` the samplers that are at work now, by the address of their node."""
        done, ended = iteration + 1, time.perf_counter()
        self._count("pairs", report.pairs)
        self._count("syncs", report.syncs)
        self._count("sync_seconds", report.seconds["syncing"])
        self._count("failures", sum(report.failures.values()), role="reward")
        for role, count in lost.items():
            self._count("failures", count - self._lost.get(role, 0), role=role)
        self._gauges["iteration"].set(done)
        self._gauges["staleness"].set(iteration - self.experiment.policy_version(iteration))
        self._gauges["samplers"].set(samplers)
        self._gauges["queued_chunks"].set(queued)
        self._nodes.update(nodes)
        for node in self._nodes:  # a gauge goes on telling what it was told last, of nodes that have gone, too
            self._gauges["samplers_on_node"].set(nodes.get(node, 0), {"node": node})
        if self._ended:
            seconds = ended - self._ended
            timing = {"iteration": done, "seconds": seconds, "samplers": samplers, "busy_seconds": report.seconds}
            for role, share in idle_shares(self.experiment, [timing]).items():
                self._gauges["idle_share"].set(share, {"role": role})
        self._ended, self._lost = ended, dict(lost)

    def _count(self, name: str, amount: int | float, **tags: str) -> None:
        if amount > 0:  # Ray takes a counter's 0 for a mistake
            self._counters[name].inc(amount, tags)
