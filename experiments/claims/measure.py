"""Runs the arms, a process a run, several at once: `python -m experiments.claims.measure`.

Every finished run leaves `runs/claims/ARM-SEED.json`; what is there is not computed again.
"""

import argparse
import json
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.claims.arms import ARMS, SEEDS, Arm
from raypref.best_of_n import best_of_n
from raypref.dry_run import guided_evaluations
from raypref.evaluate.heldout import evaluate
from raypref.train.checkpoint import TrainState
from raypref.train.experiment import Experiment, GuardAction
from raypref.train.learner import UpdateReport
from raypref.train.loop import Observer, train
from raypref.train.runtime import LocalRuntime
from raypref.train.scorer import Judgement

RUNS = Path("runs/claims")


class Curves(Observer):
    """What the claims are read from, in memory."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.alarms = experiment, 0
        self.rows: list[dict[str, float]] = []
        self.evaluations: list[dict[str, Any]] = []
        self._evaluations = self._samples = 0

    def updated(self, iteration: int, report: UpdateReport, pairs: int, seconds: float) -> None:
        method, sampling = self.experiment.method, self.experiment.sampling
        states = 1 if method.search.shares_parent() or method.arms == 1 else 2
        sampled = guided_evaluations(method.search, sampling.num_inference_steps)
        # Training: a policy and a reference forward for each parent of each row.
        self._evaluations += self.experiment.run.prompts_per_iteration * sampled + 2 * states * report.pairs
        self._samples += report.pairs
        kept = ("loss", "accuracy", "rho_win", "rho_lose", "kl", "zero_gradient", "grad_norm", "reward")
        figures = {name: report.metrics[name] for name in kept if name in report.metrics}
        self.rows.append({"iteration": iteration + 1} | figures)

    def pictured(self, iteration: int, judgements: list[Judgement]) -> None:
        evaluation = asdict(evaluate(iteration, judgements, self.experiment.evaluate.images_per_prompt))
        evaluation |= {"samples": self._samples, "guided_evaluations": self._evaluations}
        self.evaluations.append(evaluation)

    def alarmed(self, iteration: int, alarms: dict[str, int], action: GuardAction) -> None:
        self.alarms += sum(alarms.values())

    def checkpointed(self, state: TrainState) -> None:
        pass


def path_of(arm: Arm, seed: int) -> Path:
    """Where a run's figures lie."""
    return RUNS / f"{re.sub(r'[^a-z0-9_.]+', '-', arm.name.lower())}-{seed}.json"


def measure(arm: Arm, seed: int) -> float:
    """One run; its seconds."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    experiment = arm.experiment(seed)
    curves, runtime = Curves(experiment), LocalRuntime(experiment)
    train(experiment, runtime, curves)
    seconds = time.perf_counter() - started
    result = {"arm": arm.name, "seed": seed, "seconds": seconds, "rows": curves.rows,
              "evaluations": curves.evaluations, "alarms": curves.alarms}  # fmt: skip
    unfinished = path_of(arm, seed).with_suffix(".part")
    unfinished.write_text(json.dumps(result))
    os.replace(unfinished, path_of(arm, seed))
    return seconds


def best_of_n_table() -> None:
    """RDPO's Table 4: every rule, at every step and at the steps that training branches at."""
    rows = []
    for steps in ((), (0, 2, 4, 6, 8)):
        for row in best_of_n(ARMS[0].experiment(0), candidates=(8,), steps=steps):
            rows.append(asdict(row) | {"steps": list(steps)})
            print(row.rule, row.rewards["colorfulness"], row.same_as, flush=True)
    (RUNS / "best_of_n.json").write_text(json.dumps(rows, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    wanted = [(arm, seed) for seed in SEEDS for arm in ARMS]
    missing = [(arm, seed) for arm, seed in wanted if not path_of(arm, seed).exists()]
    print(f"{len(wanted)} runs, {len(missing)} to do, {args.processes} at a time", flush=True)
    if not (RUNS / "best_of_n.json").exists():
        print("step-wise best-of-N", flush=True)
        best_of_n_table()
    started = time.perf_counter()
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(measure, arm, seed): (arm, seed) for arm, seed in missing}
        for done, job in enumerate(as_completed(jobs), 1):
            arm, seed = jobs[job]
            left = (time.perf_counter() - started) / done * (len(jobs) - done) / 60
            print(f"{done}/{len(jobs)} {arm.name}, seed {seed}: {job.result():.0f} s, {left:.0f} min left", flush=True)


if __name__ == "__main__":
    main()
