"""Trials on Ray Tune: each has exactly the room that its workers need, and is the run that it would be by itself."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from experiments.chaos import same_bits
from raypref.checks import ConfigError
from raypref.config import load_experiment
from raypref.run import train
from raypref.train.stopped import StoppedRun
from raypref.tune import run
from raypref.tune.directory import StudyDirectory
from raypref.tune.run import resume, tune
from raypref.tune.study import load_study


@pytest.fixture
def trials():
    return pytest.importorskip("raypref.tune.trials", exc_type=ImportError)


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_what_is_not_installed_is_named(study_toml, monkeypatch, algorithm):
    found = {"random": "pandas, pyarrow, tensorboardX not installed", "optuna": "tensorboardX, optuna not installed"}
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    study = load_study(study_toml, [f"tune.search_alg={algorithm}"])
    with pytest.raises(ConfigError, match=f"{found[algorithm]}.*pip install raypref\\[tune\\]"):
        tune(study)
    assert not StudyDirectory.planned(study).path.exists()


def test_a_study_is_not_overwritten_by_accident_nor_a_run_by_a_study(study_toml, monkeypatch, directory, study):
    monkeypatch.setattr(run, "_check_installed", lambda study: None)
    with pytest.raises(ConfigError, match="exists; continue it with `raypref resume"):
        tune(study)
    directory.config.unlink()
    with pytest.raises(ConfigError, match="is no study; remove it"):
        tune(study, overwrite=True)


def test_a_job_that_works_in_a_copy_refuses_a_study_there(study_toml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://any.zip"}}))
    study = load_study(study_toml, ["run.output_dir=elsewhere"])
    with pytest.raises(ConfigError, match=r"run.output_dir = 'elsewhere': below a job's working folder"):
        tune(study)
    assert not (tmp_path / "elsewhere").exists()


def test_a_study_goes_on_as_it_was(directory):
    with pytest.raises(ConfigError, match="a study goes on as it was"):
        resume(directory.path, ["cluster.samplers=2"])
    with pytest.raises(ConfigError, match=r"it holds no study\.toml"):
        resume(directory.path.parent)


def test_grids_are_told_by_name_and_what_optuna_draws_by_its_ends(trials, study_toml):
    study = load_study(study_toml, ["tune.run.seed={grid=[0,1]}", "tune.run.lag={integers=[0,1]}"])
    assert trials._space(study, study.points()) == {"trial": {"grid_search": ["0", "1", "2", "3", "4", "5"]}}
    study = load_study(study_toml, ["tune.search_alg=optuna", "tune.run.lag={integers=[0,1]}"])
    space = trials._space(study, study.points())
    assert (space["method.psi_lambda"].lower, space["method.psi_lambda"].upper) == (0.1, 1e4)
    assert (space["run.lag"].lower, space["run.lag"].upper) == (0, 2)  # whose upper end is not drawn


def test_a_failure_is_told_in_the_words_of_its_cause(trials):
    lost = RayTaskError("trial", "Traceback:\n  the log of a worker", StoppedRun("a chunk has cost 3 samplers.\na log"))
    assert trials.reason(lost) == "a chunk has cost 3 samplers."
    assert trials.reason(RayTaskError("trial", "Traceback", KeyError("beta"))) == "KeyError: 'beta'"


def test_ray_tune_s_state_counts_once_it_is_whole(trials, tmp_path):
    assert not trials.has_state(tmp_path)
    (tmp_path / "tuner.pkl").touch()  # killed before its first step
    assert not trials.has_state(tmp_path)
    whole, torn = tmp_path / "experiment_state-1.json", tmp_path / "experiment_state-2.json"
    torn.write_text('{"trial_data": [')
    assert not trials.has_state(tmp_path)
    whole.write_text('{"trial_data": []}')
    torn.write_text('{"trial_data": [')
    assert trials.has_state(tmp_path)
    assert not torn.exists()  # Ray Tune would have taken this one, the newest


def test_a_study_that_was_killed_before_the_first_step_begins_anew(trials, study, directory):
    bundles = [({"CPU": 1.0}, {})]
    trials._tuner(study, directory, bundles)
    tuner = trials._tuner(study, directory, bundles)
    assert not tuner._local_tuner._is_restored
    assert tuner._local_tuner.param_space == {"trial": {"grid_search": ["0", "1", "2"]}}


def test_asha_goes_on_where_a_share_of_the_trials_has_no_score(trials, study_toml):
    study = load_study(study_toml, ["tune.scheduler=asha"])
    (bracket,) = trials._scheduler(study)._brackets
    cutoff = bracket.cutoff({"0": trials.UNSCORED, "1": trials.UNSCORED, "2": 0.5})
    assert trials.UNSCORED < cutoff < 0.5


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_runs_stops_the_worse_and_is_read_again(ray_cluster, trials, study_toml, capsys):
    study = load_study(study_toml, ["tune.scheduler=asha", "tune.grace_period=2", "tune.reduction_factor=2"])
    path = tune(study)
    said = capsys.readouterr().out
    found = StudyDirectory(path).trials(study)
    assert [trial.name for trial in found] == ["0", "1", "2"]
    assert any(trial.fate == "finished" for trial in found)
    assert all(trial.evaluations[-1].iteration >= 2 for trial in found)
    finished = next(trial for trial in found if trial.fate == "finished")
    alone = train(study.experiment(finished.point, "run.name=alone"))
    assert same_bits(path / finished.name, alone) == []
    assert load_experiment(path / "best.toml").method.psi_lambda in [
        trial.point["method.psi_lambda"] for trial in found
    ]
    assert f"report: {path / 'report.html'}" in said
    resume(path)  # nothing is left to do, and that is done at once
    assert StudyDirectory(path).trials(study) == found


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is an optional extra")
def test_optuna_draws_within_the_range(ray_cluster, trials, study_toml):
    study = load_study(study_toml, ["tune.search_alg=optuna", "tune.num_samples=2", "run.iterations=2"])
    found = StudyDirectory(tune(study)).trials(study)
    assert len(found) == 2
    assert all(trial.fate == "finished" and 0.1 <= trial.point["method.psi_lambda"] <= 1e4 for trial in found)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twelve_trials_on_room_for_three_survive_a_kill(trials):
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # Ray's sockets need a short path
        environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
        environment.pop("RAY_ADDRESS", None)
        program = (
            f"from pathlib import Path; from experiments.cluster_checks.tune import check; check(Path({folder!r}))"
        )
        subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=Path.cwd())
