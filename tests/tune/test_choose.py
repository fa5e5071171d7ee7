"""The best settings are the best at equal iterations and over all seeds, not those with the largest last figure."""

import math

from raypref.tune.choose import contenders, figure
from raypref.tune.study import load_study
from tests.tune.conftest import trial


def best(study, *trials):
    return [(each.point, each.iteration) for each in contenders(study, trials)]


def test_a_trial_that_was_stopped_early_does_not_beat_those_that_went_on(study):
    stopped = trial("0", {"method.psi_lambda": 1.0}, {0: 0.2, 2: 0.9})
    worse = trial("1", {"method.psi_lambda": 2.0}, {0: 0.2, 2: 0.91, 4: 0.5})
    better = trial("2", {"method.psi_lambda": 3.0}, {0: 0.2, 2: 0.92, 4: 0.6})
    assert best(study, stopped, worse, better) == [({"method.psi_lambda": 3.0}, 4), ({"method.psi_lambda": 2.0}, 4)]


def test_seeds_count_together_and_settings_with_a_seed_that_fell_behind_do_not(study):
    def seeded(name, value, seed, curve):
        return trial(name, {"method.psi_lambda": value, "run.seed": seed}, curve)

    lucky = [seeded("0", 1.0, 0, {4: 0.9}), seeded("1", 1.0, 1, {4: 0.1})]
    steady = [seeded("2", 2.0, 0, {4: 0.6}), seeded("3", 2.0, 1, {4: 0.6})]
    behind = [seeded("4", 3.0, 0, {2: 0.9, 4: 0.95}), seeded("5", 3.0, 1, {2: 0.9})]
    found = contenders(study, [*lucky, *steady, *behind])
    assert [each.point for each in found] == [{"method.psi_lambda": 2.0}, {"method.psi_lambda": 1.0}]
    assert found[0].heldout("colorfulness") == 0.6
    assert found[1].heldout("colorfulness") == 0.5


def test_what_was_not_scored_comes_last(study):
    unscored = trial("0", {"method.psi_lambda": 1.0}, {4: math.nan})
    scored = trial("1", {"method.psi_lambda": 2.0}, {4: -3.0})
    assert best(study, unscored, scored)[0] == ({"method.psi_lambda": 2.0}, 4)


def test_trials_that_never_came_to_an_evaluation_are_no_contenders(study):
    assert best(study, trial("0", {"method.psi_lambda": 1.0}, {})) == []
    assert best(study) == []


def test_settings_are_told_in_four_digits():
    told = [figure(value) for value in (10000.0, 1234.56, 0.00012345, 2e6, 3, "cosine")]
    assert told == ["10000", "1235", "0.0001234", "2e+06", "3", "cosine"]


def test_settings_of_which_a_seed_has_failed_before_it_began_do_not_count(study_toml):
    study = load_study(study_toml, ["tune.method.psi_lambda={grid=[1,2]}", "tune.run.seed={grid=[0,1]}"])

    def ended(name, value, seed, mean):
        return trial(name, {"method.psi_lambda": value, "run.seed": seed}, {4: mean})

    lucky, *both = ended("0", 1.0, 0, 0.9), ended("2", 2.0, 0, 0.5), ended("3", 2.0, 1, 0.6)
    assert best(study, lucky, *both) == [({"method.psi_lambda": 2.0}, 4)]
    assert best(study, lucky, ended("1", 1.0, 1, 0.8), *both)[0] == ({"method.psi_lambda": 1.0}, 4)
