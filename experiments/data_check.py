"""A set of 10,000 pairs streams with flat memory, and a killed data worker loses none of them and repeats none.

`python -m experiments.data_check [PAIRS]` prints a JSON line for each check, {"name": ..., "ok": true, and what was
found}; exit code 1 where one does not hold. All on the tiny model and on this machine. Fewer than a thousand pairs are
not given to Ray at all.
"""

import io
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageFilter

from raypref.core.seeding import Key
from raypref.data.open_table import open_table
from raypref.data.pick_a_pic import Pair, write_pairs
from raypref.data.preference_source import DataConfig
from raypref.data.preferences import PreparedSet
from raypref.data.selection import select
from raypref.methods.rdpo import RDPO
from raypref.prepare import prepare
from raypref.progress import warn
from raypref.train.encoding import blocks, build_row_encoder
from raypref.train.experiment import ClusterConfig, Experiment

MIB = 2**20
DRAWN, SIDE = 200, 256
"""Different pictures, which the pairs share; their pixels a side."""
BATCH = 50
SAMPLE = 100
"""Rows that are encoded once more, in this process."""
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

    def __init__(self, every: float) -> None:
        """`every`: seconds between two looks."""
        self.every = every
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
        found, grown = dict[str, object](), list[int]()
        owners = {
            "this process": [(share, here) for share, here, _ in self.samples],
            "data workers": [(share, workers) for share, _, workers in self.samples],
        }
        for name, samples in owners.items():
            before = max((used for share, used in samples if 0 < share <= 0.1), default=0)
            after = max((used for share, used in samples if share >= 0.9), default=0)
            if before and after:
                found[name] = {"first_tenth_mib": before // MIB, "last_tenth_mib": after // MIB}
                grown.append(after - before)
        return found | {"samples": len(self.samples), "ok": bool(grown) and max(grown) < GROWTH}

    def _watch(self, share: Callable[[], float]) -> None:
        here = psutil.Process()
        while not self._over.wait(self.every):
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
            if "MapWorker" in " ".join(process.cmdline()):
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


def encoded_on_ray(experiment: Experiment, count: int) -> tuple[PreparedSet, dict[str, object]]:
    """Encodes everything by two data workers, of which one is killed on the way."""
    memory, cache, killed = Memory(every=0.25), Path(experiment.data.cache_dir), list[int]()
    killer = threading.Thread(target=kill_one, args=(cache, count // 4, killed), daemon=True)
    killer.start()
    with memory.watched(lambda: logged(cache) / count):
        found = prepare(experiment, warn)
    facts, once = memory.facts(), Counter(found.prompts) == Counter(f"pair {number}" for number in range(count))
    same = same_as_here(experiment, found)
    told = {"killed_after_rows": killed, "every_pair_once": once, "same_bits_as_here": f"{same} of {SAMPLE}"}
    return found, facts | told | {"ok": facts["ok"] and bool(killed) and once and same == SAMPLE}


def same_as_here(experiment: Experiment, found: PreparedSet) -> int:
    """Encodes some rows in this process; how many have the same bits."""
    encoder, chosen = (
        build_row_encoder(experiment),
        select(open_table(Path(experiment.data.path)), experiment.data).chosen,
    )
    places = sorted(int(place) for place in Key(0)("sample").permutation(len(chosen))[:SAMPLE])
    rows = (row for block in blocks(encoder.table, chosen, places) for row in encoder.encode(block))
    stored = (found.manifest.latents(found.folder).read(place) for place in places)
    return sum(
        row.latents is not None and np.array_equal(row.latents.numpy(), expected)
        for row, expected in zip(rows, stored, strict=True)
    )


def read_through(found: PreparedSet) -> dict[str, object]:
    """One pass in batches."""
    memory, done = Memory(every=0.01), [0]
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
    data = DataConfig(path=str(file), cache_dir=str(folder / "latents"))
    experiment = Experiment(RDPO(), data=data, cluster=ClusterConfig(samplers=2))
    found, facts = encoded_on_ray(experiment, count)
    yield (
        "a set is encoded with flat memory, and a killed data worker changes nothing",
        facts
        | {
            "pairs": count,
            "parquet_mib": file.stat().st_size // MIB,
        },
    )
    yield "a set is read in batches with flat memory", read_through(found)


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
