"""A thousand iterations of a mini run on Ray, and the memory of every process on the way: `python -m experiments.soak`.

Leaves runs/soak/memory.jsonl and docs/soak.svg; the last line is JSON. Flat means: from the second fifth of the run to
its last fifth no process, and not the object store, has grown by more than LIMIT.
"""

import contextlib
import json
import shutil
import sys
import threading
from pathlib import Path
from statistics import mean

import matplotlib
import psutil
import ray
from ray._private.internal_api import node_stats

from experiments.chaos import workers
from raypref.config import load_experiment
from raypref.run import train
from raypref.run_directory import RunDirectory

matplotlib.use("Agg")
from matplotlib.figure import Figure

CONFIG = Path(__file__).with_name("soak.toml")
FIGURE = Path("docs/soak.svg")
SECONDS = 5.0
LIMIT = 0.03
"""Of the process's own size; of 1 MB for the object store."""
MB = 2**20

Row = dict[str, float]


def memory(driver: psutil.Process) -> Row:
    """Megabytes by role: resident memory, and what lies in the object store."""
    row = {"driver": driver.memory_info().rss / MB}
    for role, process in workers(driver):
        name = role if role not in row else f"{role} 2"
        row[name] = process.memory_info().rss / MB
    node = ray.nodes()[0]
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return row | {"object store": stats.store_stats.object_store_bytes_used / MB}


class Watch(threading.Thread):
    """Notes the memory of everything every few seconds, until told that it is over."""

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__(daemon=True)
        self.directory, self.over, self.rows = directory, threading.Event(), list[Row]()

    def run(self) -> None:
        driver = psutil.Process()
        while not self.over.wait(SECONDS):
            done = len(self.directory.rows(self.directory.metrics))
            if done and ray.is_initialized():
                with contextlib.suppress(psutil.Error):  # a process that just ends
                    self.rows.append({"iteration": done} | memory(driver))


def growth(rows: list[Row], name: str) -> float:
    """From the second fifth to the last, as a share of the size."""
    fifth = len(rows) // 5
    early, late = (mean(row[name] for row in part) for part in (rows[fifth : 2 * fifth], rows[-fifth:]))
    return (late - early) / max(early, 1.0)


def draw(rows: list[Row], names: list[str]) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in names:
        axes.plot([row["iteration"] for row in rows], [row[name] for row in rows], label=name)
    axes.set(xlabel="iteration", ylabel="MB", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(FIGURE)


def main() -> None:
    experiment = load_experiment(CONFIG, sys.argv[1:])
    directory = RunDirectory(Path(experiment.run.output_dir) / experiment.run.name)
    shutil.rmtree(directory.path, ignore_errors=True)
    watch = Watch(directory)
    watch.start()
    train(experiment, overwrite=True)
    watch.over.set()
    rows = [row for row in watch.rows if len(row) == max(map(len, watch.rows))]
    (directory.path / "memory.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [name for name in rows[0] if name != "iteration"]
    draw(rows, names)
    grown = {name: round(growth(rows, name), 4) for name in names}
    watched = rows[-1]["iteration"] > 0.98 * experiment.run.iterations
    flat = watched and all(share < LIMIT for share in grown.values())
    last = {name: round(rows[-1][name], 1) for name in names}
    print(json.dumps({"iterations": experiment.run.iterations, "flat": flat, "growth": grown, "megabytes": last}))
    sys.exit(not flat)


if __name__ == "__main__":
    main()
