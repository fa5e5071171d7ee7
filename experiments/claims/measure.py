"""Runs the arms, a process a run, several at once: `python -m experiments.claims.measure`.

Every finished run leaves `runs/claims/ARM-SEED.json`; what is there with the same settings is not computed again.
Remove the folder after a change of the code that changes numbers.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import tomli_w
import torch

from experiments.claims.arms import ARMS, BEST_OF_N, EQUAL, PAIRS, RUNS, SEEDS, Arm, a_iteration, pairs_of
from raypref.collect import collect
from raypref.config import resolved
from raypref.core.process import Gaussian
from raypref.core.search import Search
from raypref.core.seeding import Key
from raypref.core.types import Rollout
from raypref.evaluate.best_of_n import BestOfN
from raypref.evaluate.heldout import evaluate
from raypref.evaluate.question import Contender
from raypref.prepare import prepare
from raypref.studio import Policy, RuntimeStudio
from raypref.train.attendance import Attendance
from raypref.train.checkpoint import TrainState
from raypref.train.chunk import Chunk
from raypref.train.experiment import Experiment, GuardAction
from raypref.train.learner import Learner, UpdateReport
from raypref.train.loop import Observer, train
from raypref.train.rollout import Scores, Walk, explore
from raypref.train.runtime import LocalRuntime
from raypref.train.scorer import Judgement


class Probe:
    """The same states for every arm: what the base model visits on its way to a few held-out pictures."""

    STEPS = (0, 2, 4, 6, 7)
    PROMPTS = 8

    def __init__(self, learner: Learner) -> None:
        experiment = learner.experiment
        self.learner = learner
        prompts = experiment.heldout_prompts[: self.PROMPTS]
        keys = tuple(Key(0)("probe", index) for index in range(len(prompts)))
        search = Search(shape="chain", step_reward="final", steps=self.STEPS, keep_mean=True)
        walk = Walk(
            learner.denoiser, learner.process, Chunk("probe", prompts, keys), experiment.sampling.guidance_scale
        )
        exploration = explore(walk, search)
        request = next(exploration)
        try:
            exploration.send(Scores(torch.zeros(len(request.x_0), 1)))
        except StopIteration as end:
            self.visited: Rollout = end.value

    @torch.no_grad()
    def kl(self) -> float:
        """KL(policy || base model), a mean over states and elements."""
        visited, sampling = self.visited, self.learner.experiment.sampling
        assert visited.mean is not None
        total = 0.0
        for row, step in enumerate(self.STEPS):
            x_t = visited.x_t[:, 0, row]
            steps = torch.full((len(x_t),), step)
            out = self.learner.denoiser.predict(
                x_t, self.learner.process.t[steps], visited.prompts, sampling.guidance_scale
            )
            policy = self.learner.process.reverse(steps, x_t, out)
            total += float(policy.kl(Gaussian(visited.mean[:, 0, row], policy.std)).mean())
        return total / len(self.STEPS)


class Curves(Observer):
    """What the claims are read from, in memory."""

    def __init__(self, experiment: Experiment, probe: Probe) -> None:
        self.experiment, self.probe, self.alarms = experiment, probe, 0
        self.rows: list[dict[str, float]] = []
        self.evaluations: list[dict[str, Any]] = []
        self._evaluations = self._samples = 0.0

    def attended(self, iteration: int, attendance: Attendance) -> None:
        """One process."""

    def updated(self, iteration: int, report: UpdateReport, pairs: int, seconds: float) -> None:
        self._evaluations += a_iteration(self.experiment)
        self._samples += report.pairs * self.experiment.method.arms / 2
        kept = (
            *("loss", "accuracy", "rho_win", "rho_lose", "rho_win_excess", "rho_lose_excess", "kl"),
            *("zero_gradient", "grad_norm", "reward"),
        )
        figures = {name: report.metrics[name] for name in kept if name in report.metrics}
        self.rows.append({"iteration": iteration + 1} | figures)

    def pictured(self, iteration: int, judgements: list[Judgement]) -> None:
        evaluation = asdict(evaluate(iteration, judgements, self.experiment.evaluate.images_per_prompt))
        evaluation |= {"samples": self._samples, "guided_evaluations": self._evaluations, "kl": self.probe.kl()}
        self.evaluations.append(evaluation)

    def alarmed(self, iteration: int, alarms: dict[str, int], action: GuardAction) -> None:
        self.alarms += sum(alarms.values())

    def checkpointed(self, state: TrainState) -> None:
        pass

    def trained(self, export: Callable[[Path], None]) -> None:
        pass

    def learner_lost(self, iteration: int, why: str) -> None:
        raise AssertionError("it lives in this process")


def path_of(arm: Arm, seed: int) -> Path:
    """Where a run's figures lie."""
    return RUNS / f"{re.sub(r'[^a-z0-9_.]+', '-', arm.name.lower())}-{seed}.json"


def config_of(arm: Arm, seed: int) -> str:
    """All settings of a run, as text."""
    return tomli_w.dumps(resolved(arm.experiment(seed)))


def is_done(arm: Arm, seed: int) -> bool:
    """Whether a run with these very settings is there."""
    path = path_of(arm, seed)
    return path.exists() and json.loads(path.read_text())["config"] == config_of(arm, seed)


def measure(arm: Arm, seed: int) -> float:
    """One run; its seconds."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    experiment, config = arm.experiment(seed), config_of(arm, seed)  # before: files may change in the meantime
    if arm.offline:
        experiment = replace(experiment, data=replace(experiment.data, path=str(prepare(experiment, print).folder)))
    runtime = LocalRuntime(experiment)
    curves = Curves(experiment, Probe(runtime.learner))
    train(experiment, runtime, curves)
    seconds = time.perf_counter() - started
    result = {"arm": arm.name, "seed": seed, "config": config, "seconds": seconds, "rows": curves.rows,
              "evaluations": curves.evaluations, "alarms": curves.alarms}  # fmt: skip
    unfinished = path_of(arm, seed).with_suffix(".part")
    unfinished.write_text(json.dumps(result))
    os.replace(unfinished, path_of(arm, seed))
    return seconds


def draw_pairs(arm: Arm, seed: int) -> None:
    """What an offline arm learns from: drawn by the pretrained model, chosen between by the reward."""
    if not pairs_of(seed).exists():
        collect(arm.experiment(seed), pairs_of(seed), PAIRS, lambda done: None)


def best_of_n_table(steps: tuple[int, ...]) -> float:
    """RDPO's Table 4, every rule at the given steps (none: at all); its seconds."""
    started = time.perf_counter()
    experiment = BEST_OF_N.experiment(0)
    studio = RuntimeStudio(experiment, {Contender("base"): Policy(experiment.model, None)}, RUNS / "questions")
    try:
        table = BestOfN(steps=steps).answer(studio)
    finally:
        studio.close()
    best_of_n_path(steps).write_text(json.dumps(asdict(table), indent=2))
    return time.perf_counter() - started


def best_of_n_path(steps: tuple[int, ...]) -> Path:
    return RUNS / f"best_of_n_answer_at_{len(steps) or 'all'}_steps.json"


BEST_OF_N_STEPS: tuple[tuple[int, ...], ...] = ((), (0, 2, 4, 6, 7))
"""Every step, and the steps that training branches at."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=("papers", "equal"), help="the papers' arms, or all methods at equal price")
    args = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    arms = {"papers": ARMS, "equal": EQUAL}.get(args.only, [*ARMS, *EQUAL])
    started = time.perf_counter()
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        if any(arm.offline for arm in arms):
            list(pool.map(draw_pairs, repeat(EQUAL[-1]), SEEDS))
        jobs = {
            pool.submit(best_of_n_table, steps): f"best of N at {len(steps) or 'all'} steps"
            for steps in BEST_OF_N_STEPS
            if args.only != "equal" and not best_of_n_path(steps).exists()
        } | {
            pool.submit(measure, arm, seed): f"{arm.name}, seed {seed}"
            for seed in SEEDS
            for arm in arms
            if not is_done(arm, seed)
        }
        print(f"{len(jobs)} jobs, {args.processes} at a time", flush=True)
        for done, job in enumerate(as_completed(jobs), 1):
            left = (time.perf_counter() - started) / done * (len(jobs) - done) / 60
            print(f"{done}/{len(jobs)} {jobs[job]}: {job.result():.0f} s, {left:.0f} min left", flush=True)


if __name__ == "__main__":
    main()
