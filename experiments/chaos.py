"""Kills samplers, reward workers, learner and driver of real runs at random, and compares what comes out, byte by byte:
`python -m experiments.chaos --minutes 10`. The last line is JSON.

Every run is `raypref train`, and `raypref resume` after each death of the driver, on a Ray cluster of its own. It must
leave the files of a run that nothing happened to, and no driver may end but by its work or by us.
"""

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import psutil
from safetensors.torch import load_file

from raypref.train.runtime import MAX_LOSSES

CONFIG = Path(__file__).with_name("chaos.toml")
RUNS = Path("runs/chaos")
ROLES = {"SamplerWorker": "sampler", "ScorerWorker": "reward worker", "LearnerWorker": "learner"}
CASES = ((0, 1), (1, 2), (0, 3), (1, 4))
"""Lag and number of samplers."""
AGENTS = ("ray::RuntimeEnvAgent", "ray::DashboardAgent")
"""Processes of Ray that outlive a driver that is killed, and that no run is in the way of."""


def command(verb: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "raypref.cli", verb, *map(str, arguments)]


def workers(driver: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    """The live workers of a driver's cluster, by role."""
    for process in driver.children(recursive=True):
        try:
            title = process.cmdline()[:1]
        except psutil.Error:
            continue
        for kind, role in ROLES.items():
            if title and title[0].startswith("ray::") and kind in title[0]:  # a name may come before the kind
                yield role, process


def undisturbed(lag: int) -> Path:
    """The run that all runs of this lag must equal, in one process without Ray."""
    name = f"undisturbed-{lag}"
    settings = [f"run.name={name}", f"run.output_dir={RUNS}", f"run.lag={lag}", "cluster.runtime=local"]
    subprocess.run(command("train", CONFIG, "--overwrite", *settings), check=True, stdout=subprocess.DEVNULL)
    return RUNS / name


class Chaos:
    """One run and its misfortunes."""

    def __init__(self, number: int, lag: int, samplers: int, chance: random.Random) -> None:
        self.path, self.chance, self.kills = RUNS / f"chaos-{number}", chance, Counter[str]()
        self.left_behind = 0
        settings = [f"run.name={self.path.name}", f"run.output_dir={RUNS}", f"run.lag={lag}"]
        self.begin = command("train", CONFIG, "--overwrite", *settings, f"cluster.samplers={samplers}")

    def run(self) -> None:
        """To the end, whatever dies on the way."""
        self._attempt(self.begin)
        while not (self.path / "summary.json").exists():
            begun = any((self.path / "checkpoints").glob("*/SHA256SUMS"))
            self._attempt(command("resume", self.path) if begun else self.begin)

    def _attempt(self, arguments: list[str]) -> None:
        """One driver. It may end by its work or by us, and in no other way.

        Raises:
            RuntimeError: with what it said last.
        """
        with tempfile.TemporaryFile("w+") as words:
            driver, allowed = psutil.Popen(arguments, stdout=subprocess.DEVNULL, stderr=words), {0}
            before = self.kills.copy()
            while True:
                try:
                    code = driver.wait(timeout=self.chance.uniform(5, 25))
                    break
                except psutil.TimeoutExpired:
                    allowed |= self._kill(driver)
                if max((self.kills - before).values(), default=0) >= MAX_LOSSES:
                    allowed.add(3)  # we may have hit the same piece of work each time, which it then puts aside
            if code not in allowed:
                words.seek(0)
                raise RuntimeError(f"{self.path}: exit code {code}, not {allowed}\n{words.read()[-5000:]}")

    def _kill(self, driver: psutil.Popen) -> set[int]:
        """One process: the driver now and then, else any worker. The exit codes that the driver may have after it."""
        targets = list(workers(driver))
        if not targets:
            return set()
        role, victim = self.chance.choice([*targets, *targets, ("driver", driver), ("driver by SIGTERM", driver)])
        if victim is not driver:
            self._count(role, victim.kill)
            return set()
        cluster = driver.children(recursive=True)
        self._count(role, driver.kill if role == "driver" else driver.terminate)
        _, alive = psutil.wait_procs([driver, *cluster], timeout=60)
        for process in alive:
            self.left_behind += process.name() not in AGENTS
            process.kill()
        if role == "driver":
            return {-signal.SIGKILL}
        # As it leaves, all written, the signal itself may end it.
        return {128 + signal.SIGTERM, *([-signal.SIGTERM] if (self.path / "summary.json").exists() else [])}

    def _count(self, role: str, kill: Callable[[], None]) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            kill()
            self.kills[role] += 1


def same_bits(one: Path, other: Path) -> list[str]:
    """What differs between the files of two runs."""
    grids = [f"images/{grid.name}" for grid in sorted((one / "images").iterdir())]
    files = ["metrics.jsonl", "evaluations.jsonl", "lora/pytorch_lora_weights.safetensors", *grids]
    different = [name for name in files if (one / name).read_bytes() != (other / name).read_bytes()]
    mine, theirs = (
        load_file(sorted((run / "checkpoints").iterdir())[-1] / "state.safetensors") for run in (one, other)
    )
    if mine.keys() != theirs.keys() or any(not mine[name].equal(theirs[name]) for name in mine):
        different.append("the last checkpoint")
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, started = random.Random(args.seed), time.monotonic()
    shutil.rmtree(RUNS, ignore_errors=True)
    wanted = {lag: undisturbed(lag) for lag in (0, 1)}
    kills, runs, different, left_behind = Counter[str](), [], [], 0
    for number, (lag, samplers) in enumerate(cycle(CASES)):
        chaos = Chaos(number, lag, samplers, chance)
        chaos.run()
        found = same_bits(wanted[lag], chaos.path)
        different += [f"run {number}: {name}" for name in found]
        runs.append({"lag": lag, "samplers": samplers, "kills": chaos.kills.total(), "equal": not found})
        kills += chaos.kills
        left_behind += chaos.left_behind
        print(
            f"run {number}: lag {lag}, {samplers} samplers, {dict(chaos.kills)}, differs: {found or 'nowhere'}",
            flush=True,
        )
        if time.monotonic() - started > 60 * args.minutes and number + 1 >= len(CASES):
            break
    print(json.dumps({"kills": kills.total(), "equal": not different, "by_role": kills, "runs": runs,
                      "processes_left_behind": left_behind, "seconds": round(time.monotonic() - started)}))  # fmt: skip
    sys.exit(bool(different or left_behind))


if __name__ == "__main__":
    main()
