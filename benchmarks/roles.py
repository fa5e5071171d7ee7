"""Ray's price, and what overlap of roles brings: `python -m benchmarks.roles`."""

import os
import time
from dataclasses import replace
from typing import Any

from benchmarks.clock import tell
from benchmarks.work import plan
from raypref.cluster.own_scoring import OwnScoring
from raypref.cluster.runtime import RayRuntime
from raypref.cluster.workers import SamplerWorker, ScorerWorker
from raypref.methods.rdpo import RDPO
from raypref.train.chunk import rollout_chunks
from raypref.train.experiment import Experiment
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.runtime import LocalRuntime, Runtime

PROMPTS, BATCH, ROUNDS, SLEEP = 4, 20, 4, 0.05
"""Sleep: seconds that the slow reward takes for a picture."""


class SleepyWorker(ScorerWorker):
    """A reward worker whose model runs elsewhere: it waits, and leaves the processor to others."""

    def score(self, request: Any) -> Any:
        time.sleep(SLEEP * len(request.fields["prompts"]))
        return super().score(request)


class SleepyScoring(OwnScoring):
    """The same in the sampler's own process; chunks wait for it side by side."""

    def score(self, request: ScoreRequest) -> Scores:
        time.sleep(SLEEP * len(request.prompts))
        return super().score(request)


class SleepySampler(SamplerWorker):
    """A sampler that scores with it."""

    def __init__(self, experiment: Experiment, scorers: list[str]) -> None:
        super().__init__(experiment, scorers)
        self.scoring = self.sampler.scoring = SleepyScoring(experiment)


class RuntimeWith(RayRuntime):
    """Some workers in the place of others."""

    def __init__(self, experiment: Experiment, instead: dict[type, type]) -> None:
        self.instead = instead
        super().__init__(experiment)

    def _spawn(self, worker: type, *arguments: Any, **options: Any) -> Any:
        return super()._spawn(self.instead.get(worker, worker), *arguments, **options)


def seconds_an_iteration(runtime: Runtime, experiment: Experiment) -> list[float]:
    """Of ROUNDS iterations, after one that pays for what happens once."""
    runtime.restore(None)
    lag, found, requested = experiment.run.lag, [], 0
    for iteration in range(ROUNDS + 1):
        started = time.perf_counter()
        while requested <= min(iteration + lag, ROUNDS):
            chunks = rollout_chunks(experiment, requested)
            runtime.request(requested, chunks, experiment.policy_version(requested))
            requested += 1
        runtime.update(iteration)
        runtime.state()  # as the loop does, for checkpoints
        found.append(time.perf_counter() - started)
    runtime.close()
    return found[1:]


def overhead() -> None:
    """One sampler, one reward worker and one learner that take turns, against the same work in one process."""
    experiment = plan(RDPO(), PROMPTS, BATCH)
    cluster = replace(experiment.cluster, samplers=1, reward_workers=1, chunks_in_flight=1)
    experiment = replace(experiment, cluster=cluster)
    local = seconds_an_iteration(LocalRuntime(experiment), experiment)
    on_ray = seconds_an_iteration(RayRuntime(experiment), experiment)
    tell("ray_overhead", [a / b for a, b in zip(on_ray, local, strict=True)], local_seconds=min(local))


def overlap() -> None:
    """A slow reward: everybody waits for everybody, against rollouts ahead of the learner and two chunks in flight."""
    base = plan(RDPO(), PROMPTS, BATCH, "run.chunk_size=2")
    found: dict[tuple[int, int], list[float]] = {}
    for lag, chunks in ((0, 1), (0, 2), (1, 1), (1, 2)):
        cluster = replace(base.cluster, samplers=1, reward_workers=1, chunks_in_flight=chunks)
        experiment = replace(base, cluster=cluster, run=replace(base.run, lag=lag))
        found[lag, chunks] = seconds_an_iteration(RuntimeWith(experiment, {ScorerWorker: SleepyWorker}), experiment)
    slowest = found.pop((0, 1))
    for (lag, chunks), faster in found.items():
        name = "lag1_vs_lag0" if (lag, chunks) == (1, 2) else f"lag{lag}_with_{chunks}_in_flight"
        total = sum(slowest) / sum(faster)
        tell(name, [total], sleep_per_image=SLEEP, lag0_seconds=sum(slowest) / ROUNDS, seconds=sum(faster) / ROUNDS)


def colocation() -> None:
    """Reward workers of their own against rewards inside of the sampler, cheap and slow, at lag 1."""
    base = plan(RDPO(), PROMPTS, BATCH, "run.chunk_size=2")
    instead: tuple[tuple[float, dict[type, type]], ...] = (
        (0.0, {}),
        (SLEEP, {ScorerWorker: SleepyWorker, SamplerWorker: SleepySampler}),
    )
    for sleep, others in instead:
        found = []
        for workers, own in ((1, ScorerWorker), (0, SamplerWorker)):
            cluster = replace(base.cluster, samplers=1, reward_workers=workers, chunks_in_flight=2)
            experiment = replace(base, cluster=cluster, run=replace(base.run, lag=1))
            used: dict[type, type] = {kind: other for kind, other in others.items() if kind is own}
            found.append(seconds_an_iteration(RuntimeWith(experiment, used), experiment))
        apart, together = found
        total = sum(together) / sum(apart)
        tell("reward_workers_vs_colocated", [total], sleep_per_image=sleep, seconds=sum(apart) / ROUNDS)


def main() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    overhead()
    overlap()
    colocation()


if __name__ == "__main__":
    main()
