"""A learner that is lost inside a run changes no bit of it; whatever ends a run, its last iteration is kept."""

import signal
from dataclasses import replace

import pytest
import torch

from raypref.train.experiment import CheckpointConfig, EvaluateConfig
from raypref.train.learner import Learner
from raypref.train.loop import train
from raypref.train.runtime import LearnerLost
from raypref.train.stopped import Terminated
from tests.recording import Recording
from tests.toy_runtime import ToyRuntime, toy_experiment, toy_run
from tests.toys import ToyDenoiser


class Exporting(Recording):
    """Exports into a file."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def trained(self, export):
        export(self.file)


class Mortal(ToyRuntime):
    """Loses its learner in chosen calls, counted over all; what was learned since the last `state` is lost with it."""

    def __init__(self, experiment, deaths, problem=None):
        super().__init__(experiment)
        self.deaths, self.calls, self.problem = deaths, [], problem or LearnerLost("gone")

    def _call(self, name):
        self.calls.append(name)
        if (name, self.calls.count(name)) in self.deaths:
            self.learner.denoiser.parameters.flat.zero_()
            self.learner.optimizer.state.clear()
            self.learner.history.clear()
            raise self.problem

    def update(self, iteration):
        report = super().update(iteration)
        self._call("update")
        return report

    def state(self):
        self._call("state")
        return super().state()

    def restore(self, state):
        self._call("restore")
        if state is None:
            self.learner = Learner(ToyDenoiser(), self.learner.experiment)
        super().restore(state)

    def export(self, folder):
        self._call("export")
        folder.write_text(self.learner.weights(4).manifest.checksum)

    def picture(self, chunks, drawing=None):
        self._call("picture")
        return super().picture(chunks, drawing)


def plan(lag, **sections):
    defaults = {
        "evaluate": EvaluateConfig(every=2, rewards=()),
        "checkpoint": CheckpointConfig(every=3),
        "optimizer": replace(toy_experiment().optimizer, ema_decay=0.5),
    }
    return toy_experiment(lag=lag, **(defaults | sections))


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize(
    "deaths",
    [
        {("update", 1)},
        {("update", 3), ("state", 4)},
        {("update", 1), ("update", 3), ("update", 5)},  # never the same iteration
        {("picture", 1), ("picture", 3)},
        {("state", 5), ("restore", 2)},
        {("restore", 1), ("state", 1)},
        {("export", 1)},
    ],
)
def test_a_lost_learner_changes_no_bit(tmp_path, lag, deaths):
    experiment = plan(lag)
    whole, _ = toy_run(experiment)
    seen, runtime = Exporting(tmp_path / "lora"), Mortal(experiment, deaths)
    train(experiment, runtime, seen)
    assert len(seen.losses) == len(deaths)
    assert seen.final_checksum() == whole.final_checksum() == seen.file.read_text()
    assert [report.metrics for report in seen.reports] == [report.metrics for report in whole.reports]
    assert seen.judgements.keys() == whole.judgements.keys()
    for iteration, judged in whole.judgements.items():
        assert torch.equal(seen.judgements[iteration][0].images, judged[0].images)
    assert runtime.calls.count("update") <= 4 + len(deaths)  # at most one iteration repeated for each
    if deaths == {("update", 1)}:
        assert runtime.calls.count("picture") == 3  # what was judged before is not judged again


def test_an_iteration_that_takes_one_learner_after_the_other_ends_the_run():
    seen, experiment = Recording(), plan(0)
    with pytest.raises(LearnerLost, match="gone"):
        train(experiment, Mortal(experiment, {("update", 2), ("update", 3), ("update", 4)}), seen)
    assert [loss[0] for loss in seen.losses] == [1, 1]
    assert seen.states[-1].iteration == 1


def test_an_interrupted_checkpoint_is_written_again():
    class Interrupting(Recording):
        calls = 0

        def checkpointed(self, state):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            super().checkpointed(state)

    experiment, seen = plan(1, checkpoint=CheckpointConfig(every=100)), Interrupting()
    with pytest.raises(KeyboardInterrupt):
        train(experiment, Mortal(experiment, set()), seen)
    assert [state.iteration for state in seen.states] == [0, 4]


def test_why_a_run_ended_counts_more_than_that_its_checkpoint_failed_too():
    class Full(Recording):
        def checkpointed(self, state):
            if state.iteration:
                raise OSError("no room")
            super().checkpointed(state)

    experiment = plan(1, checkpoint=CheckpointConfig(every=100))
    with pytest.raises(RuntimeError, match="no memory") as caught:
        train(experiment, Mortal(experiment, {("update", 3)}, RuntimeError("no memory")), Full())
    assert "no room" in str(caught.value.__cause__)


@pytest.mark.parametrize("problem", [Terminated(signal.SIGTERM), RuntimeError("no memory"), KeyboardInterrupt()])
def test_whatever_ends_a_run_its_last_finished_iteration_is_checkpointed(problem):
    experiment, seen = plan(1, checkpoint=CheckpointConfig(every=100)), Recording()
    with pytest.raises(type(problem)):
        train(experiment, Mortal(experiment, {("update", 3)}, problem), seen)
    assert [state.iteration for state in seen.states] == [0, 2]
    resumed, _ = toy_run(experiment, resumed=seen.states[-1])
    assert resumed.final_checksum() == toy_run(experiment)[0].final_checksum()
