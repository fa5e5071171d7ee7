"""A set of 10,000 pairs streams with flat memory, and a killed data worker loses none of them and repeats none.

`python -m experiments.data_check [PAIRS]` prints a JSON line for each check, {"name": ..., "ok": true, and what was
found}; exit code 1 where one does not hold. All on the tiny model, on this machine, in a few minutes.
"""

import io
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
from PIL import Image, ImageFilter

from raypref.core.seeding import Key
from raypref.data.pick_a_pic import Pair, write_pairs
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import PreparedSet
from raypref.methods.rdpo import RDPO
from raypref.prepare import prepare
from raypref.progress import warn
from raypref.train.experiment import ClusterConfig, Experiment

MIB = 2**20
DRAWN, SIDE = 200, 256
"""Different pictures, which the pairs share; their pixels a side."""
BATCH = 50
GROWTH = 48 * MIB
"""What a process may grow by between its first tenth of the work and its last: far less than the pictures take."""

KEY = Key(0)("data")


def pictures() -> list[bytes]:
    """Coloured noise of every coarseness, as JPEG."""
    drawn, found = random.Random(0), []
    for number in range(DRAWN):
        noise = Image.frombytes("RGB", (SIDE, SIDE), drawn.randbytes(3 * SIDE * SIDE))
        file = io.BytesIO()
        noise.filter(ImageFilter.GaussianBlur(1 + number % 7)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


def pairs(count: int) -> Iterator[Pair]:
    """Every third pair prefers the second picture."""
    known = pictures()
    for number in range(count):
        label = (0.0, 1.0) if number % 3 == 0 else (1.0, 0.0)
        yield Pair((known[number % DRAWN], known[(7 * number + 1) % DRAWN]), f"pair {number}", label)


class Memory:
    """The memory of this process and of the data workers below it, watched while something runs."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, int]] = []
        self._over = threading.Event()

    @contextmanager
    def watched(self, share: Callable[[], float]) -> Iterator[None]:
        """`share` tells how much of the work is done, from 0 to 1."""
        watching = threading.Thread(target=self._watch, args=(share,))
        watching.start()
        try:
            yield
        finally:
            self._over.set()
            watching.join()

    def facts(self) -> dict[str, object]:
        """The most in the first tenth and in the last, in MiB, of this process and of all data workers."""
        found: dict[str, object] = {"ok": True}
        for name, column in (("this process", 1), ("data workers", 2)):
            first = [sample[column] for sample in self.samples if 0 < sample[0] <= 0.1]
            last = [sample[column] for sample in self.samples if sample[0] >= 0.9]
            if not (first and last and max(first)):
                continue
            found[name] = {"first_tenth_mib": max(first) // MIB, "last_tenth_mib": max(last) // MIB}
            found["ok"] = found["ok"] and max(last) - max(first) < GROWTH
        return found | {"samples": len(self.samples)}

    def _watch(self, share: Callable[[], float]) -> None:
        here = psutil.Process()
        while not self._over.wait(0.25):
            workers = [_own_memory(process) for process in data_workers()]
            self.samples.append((share(), _own_memory(here), max(workers, default=0)))


def _own_memory(process: psutil.Process) -> int:
    """Bytes that no other process sees: without Ray's store, which is of a fixed size."""
    try:
        found = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(found.rss - found.shared)


def data_workers() -> list[psutil.Process]:
    """Those below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "DataWorker" in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def logged(cache: Path) -> int:
    """Rows that are encoded so far."""
    return sum(log.read_bytes().count(b"\n") for log in cache.glob("*/log.jsonl"))


def kill_one(cache: Path, after: int, killed: list[int]) -> None:
    """Ends a data worker once so many rows are there."""
    while (done := logged(cache)) < after:
        time.sleep(0.05)
    data_workers()[0].kill()
    killed.append(done)


def encoded_here(experiment: Experiment, count: int) -> tuple[PreparedSet, dict[str, object]]:
    """Encodes everything in this process."""
    memory, cache = Memory(), Path(experiment.data.cache_dir)
    with memory.watched(lambda: logged(cache) / count):
        found = prepare(experiment, warn)
    facts = memory.facts()
    return found, facts | {"pairs": len(found), "ok": facts["ok"] and len(found) == count}


def encoded_on_ray(experiment: Experiment, count: int, expected: str) -> tuple[PreparedSet, dict[str, object]]:
    """Encodes everything by data workers, of which one is killed on the way."""
    memory, cache, killed = Memory(), Path(experiment.data.cache_dir), list[int]()
    killer = threading.Thread(target=kill_one, args=(cache, count // 4, killed), daemon=True)
    killer.start()
    with memory.watched(lambda: logged(cache) / count):
        found = prepare(experiment, warn)
    facts, same = memory.facts(), found.manifest.checksum == expected
    whole = bool(killed) and same and len(found) == count
    killing = {"killed_after_rows": killed, "pairs": len(found), "same_bits_as_here": same}
    return found, facts | killing | {"ok": facts["ok"] and whole}


def read_through(found: PreparedSet) -> dict[str, object]:
    """One pass in batches."""
    memory, done = Memory(), [0]
    items: list[int] = []
    with memory.watched(lambda: done[0] / len(found)):
        for iteration in range(len(found) // BATCH):
            items += found.batch(iteration, BATCH, KEY, arms=2).items.tolist()
            done[0] = len(items)
    facts = memory.facts()
    once = sorted(items) == list(range(len(found)))
    return facts | {"every_pair_once": once, "ok": facts["ok"] and once}


def checks(count: int, folder: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Each check's name, and what was found."""
    file = folder / "pairs.parquet"
    write_pairs(file, pairs(count))
    config = DataConfig(path=str(file), cache_dir=str(folder / "here"), random_flip=False)
    cluster = ClusterConfig(samplers=2)
    experiment = Experiment(RDPO(), data=config, cluster=replace(cluster, runtime="local"))
    size = {"parquet_mib": file.stat().st_size // MIB}
    here, facts = encoded_here(experiment, count)
    yield "a set is encoded here, with flat memory", facts | size
    elsewhere = replace(config, cache_dir=str(folder / "ray"))
    on_ray = replace(experiment, data=elsewhere, cluster=cluster)
    found, facts = encoded_on_ray(on_ray, count, here.manifest.checksum)
    yield "a set is encoded on Ray, with flat memory, and a killed worker changes nothing", facts | size
    yield "a set is read in batches, with flat memory", read_through(found)


def main() -> None:
    count = int(sys.argv[1]) if sys.argv[1:] else 10_000
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, facts in checks(count, Path(folder)):
            print(json.dumps({"name": name} | facts), flush=True)
            bad += not facts["ok"]
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
