"""A trace of one iteration for each role, and Ray's timeline of three: `python -m benchmarks.profile`.

Leaves runs/profile/{sampler,reward,learner,ray}.json, to be opened in https://ui.perfetto.dev, and prints where each
role spends its time.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.work import Ours, plan
from raypref.cluster.runtime import RayRuntime
from raypref.methods.rdpo import RDPO
from raypref.train.chunk import rollout_chunks
from raypref.train.experiment import Experiment
from raypref.train.rollout import ScoreRequest, Scores
from raypref.train.sampler import SampledRollout, Scoring
from raypref.train.scorer import Judgement

FOLDER = Path("runs/profile")
PROMPTS, BATCH, ROWS = 4, 20, 8


class Remembered(Scoring):
    """Random scores; keeps the last request, which the reward worker's trace is made of."""

    def __init__(self) -> None:
        self.request: ScoreRequest | None = None

    def score(self, request: ScoreRequest) -> Scores:
        self.request = request
        return Scores(torch.rand(len(request.x_0), 1))

    def judge(self, request: ScoreRequest) -> Judgement:
        raise AssertionError("nothing is judged here")


def trace(name: str, work: Callable[[Any], object], prepare: Callable[[], Any]) -> None:
    """Profiles one call, after one that pays for what happens once; `prepare` makes its argument."""
    work(prepare())
    argument = prepare()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiler:
        work(argument)
    profiler.export_chrome_trace(str(FOLDER / f"{name}.json"))
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS, max_name_column_width=40)
    print(f"\n{name}\n{table}")


def each_role(experiment: Experiment) -> None:
    """Every role alone, in this process."""
    ours, remembered = Ours(experiment), Remembered()
    scorer, ours.sampler.scoring = ours.scoring, remembered

    def newest() -> int:
        return max(ours.learner.history)

    def rollout() -> SampledRollout:
        return ours.sampler.rollout(ours.chunk, ours.learner.weights(newest()))

    trace("sampler", lambda weights: ours.sampler.rollout(ours.chunk, weights), lambda: ours.learner.weights(newest()))
    trace("reward", scorer.score, lambda: remembered.request)
    trace("learner", lambda sampled: ours.learner.update(newest(), [sampled]), rollout)


def timeline(experiment: Experiment) -> None:
    """Three iterations on Ray, as `ray timeline` shows them."""
    runtime = RayRuntime(experiment)
    runtime.restore(None)
    for iteration in range(3):
        runtime.request(iteration, rollout_chunks(experiment, iteration), experiment.policy_version(iteration))
        runtime.update(iteration)
    ray.timeline(str(FOLDER / "ray.json"))
    runtime.close()


def main() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    FOLDER.mkdir(parents=True, exist_ok=True)
    experiment = plan(RDPO(), PROMPTS, BATCH)
    each_role(experiment)
    timeline(replace(experiment, cluster=replace(experiment.cluster, samplers=2, reward_workers=1)))
    print(f"\ntraces: {FOLDER.resolve()}")


if __name__ == "__main__":
    main()
