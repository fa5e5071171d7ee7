"""A study that cannot work is refused before a trial starts, in one line."""

import sys
from pathlib import Path

import pytest

from raypref.checks import ConfigError
from raypref.cli import main
from raypref.config import load_experiment
from raypref.tune.directory import StudyDirectory
from raypref.tune.study import load_study

BROKEN = [
    (["tune.trials=3"], "tune.trials = 3: [tune] has no key 'trials'"),
    (["tune.num_samples=0"], "tune.num_samples = 0: use 1 or more."),
    (["tune.num_samples=many"], "tune.num_samples = 'many': input should be a valid integer"),
    (["tune.scheduler=hyperband"], "tune.scheduler = 'hyperband': input should be 'asha' or 'none'"),
    (["tune.reduction_factor=1"], "tune.reduction_factor = 1.0: use a number above 1, such as 3."),
    (["tune.metric=clip"], "tune.metric = 'clip': it is no held-out reward of this run: choose from colorfulness"),
    (["tune.method.bta={grid=[1]}"], "[tune] tries method.psi_lambda=0.1 method.bta=1: "),
    (["tune.method.bta={grid=[1]}"], "method.bta = 1: [method] has no key 'bta': did you mean 'beta'?"),
    (["tune.method.beta={uniform=[0,1]}"], "[tune] tries method.psi_lambda="),
    (["tune.method.beta={uniform=[0,1]}"], "method.beta = 0.0: use a positive number"),
    (["tune.run.lag={integers=[0,2]}"], "run.lag = 2: use 0 (strictly on-policy) or 1"),
    (["tune.optimizer.batch_size={grid=[12,9]}"], "optimizer.batch_size = 9: it must divide the 12 pairs"),
    (["tune.method.psi_sign={choice=[intended]}"], "tune.method.psi_sign = '{choice=[intended]}'"),
    (["tune.run.iterations={grid=[1,2]}"], 'tune."run.iterations": a study cannot search'),
    (["tune.cluster.samplers={grid=[1,2]}"], 'tune."cluster.samplers": a study cannot search'),
    (["tune.reward.name={grid=[\"colorfulness\"]}"], "trials with different training rewards cannot be compared"),
    (["tune.search_alg=optuna", "tune.run.lag={grid=[0,1]}"], "search_alg = 'optuna' draws its own points"),
    (["tune.scheduler=asha", "tune.grace_period=4"], "it first compares trials after 4 iterations"),
    (["tune.scheduler=asha", "evaluate.every=0"], "it first compares trials after 0 iterations"),
    (["method.betta=1"], "method.betta = 1: [method] has no key 'betta'"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), BROKEN, ids=[" ".join(words) for words, _ in BROKEN])
def test_a_broken_study_is_one_clear_error(study_toml, monkeypatch, capsys, overrides, message):
    monkeypatch.setattr(sys, "argv", ["raypref", "tune", str(study_toml), *overrides])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(study_toml.parent.glob("runs/*"))


def test_a_config_without_a_study_names_the_way_out(toml):
    with pytest.raises(ConfigError, match=r"it has no \[tune\] section.*raypref train"):
        load_study(toml)


def test_a_study_that_searches_nothing_is_refused(toml):
    toml.write_text(toml.read_text() + "[tune]\n")
    with pytest.raises(ConfigError, match="searches nothing"):
        load_study(toml)


def test_every_point_is_checked_not_only_the_ends(study_toml):
    with pytest.raises(ConfigError, match=r"run\.chunk_size = 3: it must divide"):
        load_study(study_toml, ["tune.run.chunk_size={choice=[1,2,3,4]}", "tune.num_samples=30"])


def test_a_study_s_file_can_be_trained_as_it_is(study_toml):
    assert load_experiment(study_toml) == load_study(study_toml).base


def test_trials_have_the_names_of_directories_and_the_point_s_settings(study):
    points = study.points()
    assert list(points) == ["0", "1", "2"]
    for point in points.values():
        assert study.experiment(point).method.psi_lambda == point["method.psi_lambda"]


def test_the_paper_s_figure_is_four_lambdas_with_three_seeds_each():
    study = load_study(Path("experiments/tune_lambda.toml").resolve())
    points = study.points()
    assert list(points) == [f"{number:02d}" for number in range(12)]
    assert {point["method.psi_lambda"] for point in points.values()} == {1, 10, 100, 10000}
    assert study.settings.scheduler == "none"


def test_trials_of_several_methods_have_each_its_own_defaults(toml):
    toml.write_text(toml.read_text() + '[tune]\nscheduler = "none"\n"method.name" = {grid = ["rdpo", "tailorpo"]}\n')
    study = load_study(toml)
    directory = StudyDirectory.planned(study)
    directory.create(study)
    again = directory.study()
    assert again.points() == study.points() == {"0": {"method.name": "rdpo"}, "1": {"method.name": "tailorpo"}}
    for name, point in study.points().items():
        alone = load_experiment(toml, [f"method.name={point['method.name']}"])
        trial = directory.experiment(again, name, point)
        assert (trial.method, trial.prompts, trial.model) == (alone.method, alone.prompts, alone.model)
