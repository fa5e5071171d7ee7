"""The parts of `make evaluate-check`: what it asks about, and what it takes for good."""

from dataclasses import replace

import pytest

from experiments import evaluate_check
from experiments.evaluate_check import OTHER, OTHER_REWARD, QUICKSTART, REWARD, copied, same_settings
from raypref.config import load_experiment
from raypref.evaluate.duel import COLUMNS
from raypref.evaluate.table import Measured, Row, Table
from raypref.run_directory import RunDirectory
from raypref.train.experiment import ClusterConfig


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder for runs; nothing is trained, but told."""
    trained = []

    def instead(experiment, overwrite=False):
        trained.append((RunDirectory.planned(experiment).path, overwrite))
        return trained[-1][0]

    monkeypatch.setattr(evaluate_check, "FOLDER", tmp_path / "evaluate-check")
    monkeypatch.setattr(evaluate_check, "train", instead)
    monkeypatch.setattr(evaluate_check, "resume", lambda path: trained.append((path, "resumed")) or path)
    return tmp_path, trained


def made(experiment, folder, finished=True):
    """A run directory with nothing in it but its settings."""
    run = RunDirectory.create(replace(experiment, run=replace(experiment.run, output_dir=str(folder))))
    if finished:
        run.summary.write_text("{}")
    return run.path


def planned(monkeypatch, path):
    """Lets the quickstart's own run be there."""
    monkeypatch.setattr(RunDirectory, "planned", classmethod(_where(path, RunDirectory.planned)))


def _where(path, plain):
    return lambda cls, experiment: RunDirectory(path) if experiment.run.output_dir == "runs" else plain(experiment)


def test_the_quickstarts_own_run_is_asked_where_it_is_there_with_its_settings(elsewhere, monkeypatch):
    folder, trained = elsewhere
    experiment = load_experiment(QUICKSTART)
    own = made(replace(experiment, cluster=ClusterConfig(runtime="local")), folder / "mine")
    planned(monkeypatch, own)
    assert evaluate_check.quickstart() == own
    assert trained == []
    (own / "summary.json").unlink()
    assert evaluate_check.quickstart() == folder / "evaluate-check" / "quickstart"
    assert trained == [(folder / "evaluate-check" / "quickstart", True)]


def test_a_run_of_other_settings_is_not_the_quickstarts(tmp_path):
    experiment = load_experiment(QUICKSTART)
    assert same_settings(made(experiment, tmp_path), experiment)
    assert not same_settings(tmp_path / "nowhere", experiment)
    for place, change in enumerate(
        ("run.seed=1", "run.iterations=2", "method.beta=3.0", "run.heldout_prompts=animals:out_of_distribution")
    ):
        other = load_experiment(QUICKSTART, [change])
        assert not same_settings(made(other, tmp_path / str(place)), experiment), change


def test_what_was_begun_goes_on_and_what_is_stale_is_trained_anew(elsewhere):
    folder, trained = elsewhere
    experiment = load_experiment(OTHER)
    path = made(experiment, folder / "evaluate-check", finished=False)
    evaluate_check.trained(OTHER)
    made(replace(experiment, run=replace(experiment.run, seed=3)), folder / "evaluate-check")
    evaluate_check.trained(OTHER)
    made(experiment, folder / "evaluate-check")
    assert evaluate_check.trained(OTHER) == path
    assert trained == [(path, "resumed"), (path, True)]


def test_both_runs_are_of_one_model_and_of_two_rewards():
    quickstart, other = load_experiment(QUICKSTART), load_experiment(OTHER)
    assert quickstart.model == other.model
    assert (quickstart.reward.name, other.reward.name) == (REWARD, OTHER_REWARD)
    assert (quickstart.run.name, other.run.name) == ("quickstart", "other")
    assert other.checkpoint.keep > other.run.iterations / other.checkpoint.every  # that of the base model stays


def test_a_copy_has_the_run_but_not_what_was_drawn_of_it(elsewhere):
    folder, _ = elsewhere
    own = made(load_experiment(QUICKSTART), folder)
    (own / "questions" / "shelf").mkdir(parents=True)
    (folder / "evaluate-check").mkdir()
    copy = copied(own, "copy")
    assert (copy / "config.toml").exists()
    assert not (copy / "questions").exists()


def duel(against, low, high, mean=0.75):
    nothing = Measured(0.0, 0.0, 0.0, 0.0, 12)
    cells = (Measured(mean, 0.1, low, high, 12), *[nothing] * (len(COLUMNS) - 1))
    return Table("win_rate", "", ("against", "reward"), COLUMNS, (Row((against, REWARD), cells),))


def test_a_win_rate_must_exclude_a_half_and_a_run_against_itself_must_not():
    assert evaluate_check.win_rate(duel("base", 0.51, 0.9))["ok"]
    assert not evaluate_check.win_rate(duel("base", 0.5, 0.9))["ok"]
    assert evaluate_check.itself(duel("quickstart (2)", 0.3, 0.7, mean=0.5))["ok"]
    assert not evaluate_check.itself(duel("quickstart (2)", 0.3, 0.7, mean=0.51))["ok"]
    assert not evaluate_check.itself(duel("quickstart (2)", 0.51, 0.7, mean=0.5))["ok"]
