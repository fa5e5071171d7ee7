"""Idle shares are what is left of the workers' wall-clock time."""

import pytest

from raypref.idle import idle_shares
from raypref.train.experiment import ClusterConfig, EvaluateConfig
from tests.toy_runtime import toy_experiment


def row(iteration, seconds, **busy):
    return {"iteration": iteration, "seconds": seconds, "busy_seconds": {"syncing": 0.0, "scoring": 0.0} | busy}


ROWS = [
    row(1, 10.0, denoising=12.0, rewarding=1.0, learning=4.0),
    row(2, 20.0, denoising=8.0, rewarding=1.0, learning=6.0),
    row(3, 90.0, denoising=9.0, rewarding=9.0, learning=9.0),  # an evaluation of a minute came before
]


def test_the_workers_of_a_role_share_what_it_does():
    experiment = toy_experiment(
        cluster=ClusterConfig(samplers=2, reward_workers=1), evaluate=EvaluateConfig(every=2, rewards=())
    )
    found = idle_shares(experiment, ROWS)
    assert found == pytest.approx({"samplers": 0.5, "reward workers": 0.9, "learner": 0.5})


def test_samplers_count_while_they_are_there():
    experiment = toy_experiment(
        cluster=ClusterConfig(samplers=1, max_samplers=2), evaluate=EvaluateConfig(every=2, rewards=())
    )
    rows = [row | {"samplers": samplers} for row, samplers in zip(ROWS, (1.5, 2.0, 2.0), strict=True)]
    assert idle_shares(experiment, rows)["samplers"] == pytest.approx(1 - 20 / (10 * 1.5 + 10 * 2.0))
    assert idle_shares(experiment, [ROWS[0] | {"samplers": 0.0}]) == {}


def test_an_iteration_after_an_evaluation_does_not_count():
    experiment = toy_experiment(cluster=ClusterConfig(samplers=2), evaluate=EvaluateConfig(every=1, rewards=()))
    assert idle_shares(experiment, ROWS[:1]) != {}
    assert idle_shares(experiment, ROWS[1:2]) == {}


def test_one_process_that_plays_all_roles_is_never_idle():
    experiment = toy_experiment(
        cluster=ClusterConfig(runtime="local", samplers=2), evaluate=EvaluateConfig(every=0, rewards=())
    )
    assert idle_shares(experiment, ROWS) == {}


def test_samplers_that_score_themselves_are_busy_scoring():
    experiment = toy_experiment(
        cluster=ClusterConfig(samplers=2, reward_workers=0), evaluate=EvaluateConfig(every=2, rewards=())
    )
    assert idle_shares(experiment, ROWS) == pytest.approx({"samplers": 0.45, "learner": 0.5})


def test_without_evaluations_every_iteration_counts():
    experiment = toy_experiment(
        cluster=ClusterConfig(samplers=2, reward_workers=1), evaluate=EvaluateConfig(every=0, rewards=())
    )
    found = idle_shares(experiment, ROWS)
    assert found == pytest.approx({"samplers": 1 - 29 / 180, "reward workers": 1 - 11 / 90, "learner": 1 - 19 / 90})
