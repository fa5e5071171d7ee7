"""A run on Ray that loses one worker after the other gives the bits of one that lost none."""

import os
import re
import signal
import sys
from collections import Counter

import pytest
import ray

from raypref.train.experiment import CheckpointConfig
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from tests.cluster.conftest import LIVE
from tests.recording import Recording, small_experiment

pytestmark = pytest.mark.ray

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files


class Killer(Recording):
    """Kills processes after chosen iterations; with lag 1 samplers and reward workers are in the middle of work."""

    def __init__(self, runtime, targets):
        super().__init__()
        self.runtime, self.targets = runtime, dict(targets)

    def updated(self, iteration, report, pairs, seconds):
        super().updated(iteration, report, pairs, seconds)
        self.kill(iteration)

    def kill(self, iteration):
        for role in self.targets.pop(iteration, ()):
            os.kill(self.pid(role), signal.SIGKILL)

    def pid(self, role):
        if role == "sampler":
            return self.runtime.crew.seats[0].whereabouts.pid
        worker = (self.runtime.learner.actors if role == "learner" else self.runtime.scorers)[0]
        return ray.get(worker.ready.options(max_task_retries=-1).remote(), timeout=60).pid


@pytest.mark.parametrize(
    ("lag", "targets", "losses"),
    [
        (0, {0: ["sampler"], 1: ["reward"], 2: ["learner"]}, [2]),
        pytest.param(1, {-1: ["learner"], 0: ["learner"], 1: ["sampler", "reward"]}, [0, 0], marks=pytest.mark.slow),
    ],
)
def test_lost_workers_change_no_bit(on_ray, random_model, caplog, lag, targets, losses):
    sections = {"cluster": LIVE, "checkpoint": CheckpointConfig(every=2)}
    experiment = small_experiment(random_model, lag=lag, iterations=4, **sections)
    whole = Recording()
    train(experiment, LocalRuntime(experiment), whole)
    runtime = on_ray(experiment)
    seen = Killer(runtime, targets)
    seen.kill(-1)  # before anything is asked of it
    train(experiment, runtime, seen)
    assert not seen.targets
    lost = Counter(change.role for change in seen.changes if change.kind == "lost")
    assert lost == {"sampler": 1, "reward worker": 1, "learner": len(seen.losses)}
    assert re.search(r"a sampler, process \d+ on node [\d.]+, died; its chunks are computed again", caplog.text)
    assert re.search(r"(?s)a reward worker, process \d+ on node .* died; its pictures are scored again", caplog.text)
    assert [iteration for iteration, _ in seen.losses] == losses
    assert seen.final_checksum() == whole.final_checksum()
    assert [report.metrics for report in seen.reports] == [report.metrics for report in whole.reports]
    for iteration, judged in whole.judgements.items():
        assert seen.judgements[iteration][0].images.equal(judged[0].images)
