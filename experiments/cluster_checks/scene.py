"""A run in the middle of which something happens to its cluster: what the checks share."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import ray

import raypref.run
from experiments.chaos import CONFIG, same_bits
from raypref.cluster.pool import Job
from raypref.cluster.runtime import RayRuntime
from raypref.config import load_experiment
from raypref.run import Recorder, train
from raypref.run_directory import RunDirectory
from raypref.train.experiment import Experiment
from raypref.train.learner import UpdateReport

PATIENCE = 300.0
"""Seconds to wait for what must come."""

Act = Callable[[RayRuntime], None]


@contextmanager
def connected(address: str) -> Iterator[None]:
    """This process as a driver of a cluster, which it leaves before that ends: a driver without one is ended by Ray."""
    ray.init(address, logging_level="ERROR", log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def plan(folder: Path, name: str, *overrides: str) -> Experiment:
    """The short run of `make chaos`, which has every part in it; its evaluations only at both ends."""
    here = [f"run.name={name}", f"run.output_dir={folder / 'runs'}", "evaluate.every=0"]
    return load_experiment(CONFIG, [*here, *overrides])


def alone(folder: Path, *overrides: str) -> Path:
    """The same run in one process, without Ray: its directory."""
    return train(plan(folder, "alone", *overrides, "cluster.runtime=local"), overwrite=True)


def staged(experiment: Experiment, acts: dict[int, Act]) -> Path:
    """`raypref train` on Ray, with an act after chosen iterations, while rollouts of the next are at work."""

    class Staged(Recorder):
        def updated(self, iteration: int, report: UpdateReport, pairs: int, seconds: float) -> None:
            super().updated(iteration, report, pairs, seconds)
            if iteration in acts:
                acts[iteration](runtimes[-1])

    def start(experiment: Experiment) -> RayRuntime:
        runtimes.append(RayRuntime(experiment))
        return runtimes[-1]

    runtimes: list[RayRuntime] = []
    with patch.object(raypref.run, "Recorder", Staged), patch.object(raypref.run, "start_runtime", start):
        return train(experiment, overwrite=True)


def pump_until(runtime: RayRuntime, condition: Callable[[], object]) -> None:
    """Lets the pool go on until something is so.

    Raises:
        TimeoutError: where it is not in time.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"what was waited for does not come; {runtime.crew.places.awaited()}")
        runtime.pool._pump([], deadline)


def at_work(runtime: RayRuntime, number: int) -> None:
    """Waits until so many samplers are at work, no more and no fewer."""
    pump_until(runtime, lambda: len(runtime.crew.at_work()) == number)


def begin_again(runtime: RayRuntime, iteration: int) -> list[Job]:
    """Rolls out an iteration anew, so that samplers are at it right now."""
    jobs = [Job(job.method, job.chunk, job.arguments) for job in runtime._jobs[iteration]]
    runtime._jobs[iteration] = jobs
    runtime.pool.submit(jobs)
    return jobs


def under_load(runtime: RayRuntime, iteration: int, number: int) -> None:
    """Rolls out an iteration again and again, until so many samplers are at it."""
    pump_until(
        runtime,
        lambda: runtime.pool.wait_jobs(begin_again(runtime, iteration)) and len(runtime.crew.at_work()) == number,
    )


def changes(run: Path) -> list[tuple[str, str]]:
    """Who joined, left and was lost, as the run directory has it: role and what."""
    directory = RunDirectory(run)
    return [(row["role"], row["kind"]) for row in directory.rows(directory.workers)]


def differences(run: Path, other: Path) -> list[str]:
    """Files of two runs that are not the same bytes."""
    return same_bits(run, other)


class Warned(logging.Handler):
    """Remembers what the package warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        logging.getLogger("raypref").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
