"""Rows that are encoded on Ray are those that are encoded here, whatever becomes of a worker."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from raypref import prepare as preparing
from raypref.cluster.encoding import DataWorkersLost, _in_time
from raypref.core.seeding import Key
from raypref.data.preference_source import DataConfig
from raypref.prepare import prepare
from raypref.train import encoding
from raypref.train.experiment import ClusterConfig
from tests.data.labelled import PAIRS, write_tar


@pytest.mark.ray
@pytest.mark.slow  # Ray Data and two workers, one after the other, load half a minute of libraries
@pytest.mark.timeout(900)
def test_a_data_worker_that_dies_loses_no_row_and_repeats_none(make_experiment, tmp_path, ray_cluster, monkeypatch):
    config = DataConfig(path=str(write_tar(tmp_path / "set.tar", PAIRS * 40)), cache_dir=str(tmp_path / "here"))
    local = prepare(make_experiment(data=config, cluster=ClusterConfig(runtime="local")), print)
    monkeypatch.setattr(preparing, "LARGE", 1)
    monkeypatch.setattr(encoding, "BLOCK", 8)
    experiment = make_experiment(data=replace(config, cache_dir=str(tmp_path / "elsewhere")))
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.append(kill_a_data_worker(tmp_path / "elsewhere")))
    killer.start()
    found = prepare(experiment, print)
    killer.join()
    assert killed[0] < len(found) == 160
    assert found.manifest.checksum == local.manifest.checksum
    assert sorted(found.batch(0, 160, Key(0), arms=2).items.tolist()) == list(range(160))


def kill_a_data_worker(cache: Path) -> int:
    """Ends one below this process once the first rows are there; how many there were."""
    workers: list[psutil.Process] = []
    while not workers:
        time.sleep(0.02)
        logged = [line for log in cache.glob("*/log.jsonl") for line in log.read_text().splitlines()]
        below = psutil.Process().children(recursive=True) if logged else []
        workers = [process for process in below if "MapWorker" in " ".join(process.cmdline())]
    workers[0].kill()
    return len(logged)


def test_silence_and_failures_of_data_workers_end_the_wait():
    over = threading.Event()

    def hanging():
        yield {"place": [1]}
        over.wait()

    batches = _in_time(hanging(), 0.2)
    assert next(batches) == {"place": [1]}
    with pytest.raises(DataWorkersLost, match=r"anything for 0\.2 s"):
        next(batches)
    over.set()

    def failing():
        yield {"place": [1]}
        raise OSError("why")

    with pytest.raises(OSError, match="why"):
        list(_in_time(failing(), 20.0))
    assert list(_in_time(iter([{"a": 1}, {"a": 2}]), 20.0)) == [{"a": 1}, {"a": 2}]
