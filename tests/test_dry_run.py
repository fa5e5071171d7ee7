"""What a run would cost, against what the sampler does evaluate."""

from dataclasses import replace
from pathlib import Path

import pytest

from raypref.core.search import Guidance, Search
from raypref.core.search_cost import guided_evaluations
from raypref.dry_run import dry_run, trained_evaluations, trained_parents
from raypref.methods.d3po import D3PO
from raypref.methods.kto import KTO
from raypref.methods.rdpo import RDPO
from raypref.methods.spo import SPO
from raypref.train.experiment import ClusterConfig
from raypref.train.rollout import explore
from tests.recording import small_experiment
from tests.toys import ToyDenoiser, chunk_of, drive, toy_walk

MOVED = Guidance("reward_ascent")
SEARCHES = [
    *(Search(steps=steps) for steps in [(0,), (19,), (18,), (0, 1, 2), (0, 4, 8, 12, 16), (3, 18, 19)]),
    Search(steps=tuple(range(20)), candidates=4, step_reward="q", follow="random"),
    *(Search(steps=steps, inner_steps=3) for steps in [(0, 3, 9), (5, 14), (17,), (16,)]),
    *(Search(steps=steps, step_reward="lookahead_q", candidates=3) for steps in [(0, 4), (0, 1, 17), (18,)]),
    Search(steps=(2, 16), step_reward="lookahead_gain", inner_steps=3),
    Search(steps=(2, 15), step_reward="lookahead_gain", inner_steps=3),
    *(Search(steps=steps, guidance=MOVED) for steps in [(0, 4, 8, 12, 16), (0, 1), (18,), (18, 19), (19,)]),
    Search(steps=(4, 17), step_reward="lookahead_q", guidance=MOVED),
    Search("chain", 2, (0, 19), "final"),
    Search("chain", 3, (0, 19), "delta_cross", same_start=False),
    Search("chain", 4, (0, 5), "final", same_start=False, keep_mean=True),
    Search("chain", 2, (0, 18), "lookahead_gain"),
]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: f"{search.shape}-{search.step_reward}-{search.steps}")
def test_the_count_is_what_the_sampler_evaluates(search: Search):
    search.check_steps(20)
    denoiser = ToyDenoiser()
    drive(explore(toy_walk(denoiser, chunk_of(("a", "b"))), search))
    assert denoiser.guided == 2 * guided_evaluations(search, 20)


def test_guided_evaluations_are_counted_as_the_design_says():
    # 1 + 5 branches x 2 + 12 plain steps = 23; two chains from one x_T: 1 + 19 x 2 = 39
    assert guided_evaluations(RDPO().search, 20) == 23
    assert guided_evaluations(D3PO().search, 20) == 39
    # D3PO: 2 x 20, of which the first is one. SPO on SDXL: of 2 x 3 in a branch the first is one.
    assert trained_parents(RDPO()) == 5
    assert trained_parents(SPO()) == 16
    assert trained_parents(D3PO()) == 39
    assert trained_parents(SPO(search=Search(steps=(0, 3, 6, 9, 12), inner_steps=3))) == 25


def test_a_method_that_looks_at_its_whole_batch_first_asks_the_policy_twice(random_model: Path):
    small = small_experiment(random_model)
    parts = replace(small.optimizer, batch_size=4, micro_batch_size=2)
    kto = replace(small, method=KTO(), optimizer=parts)
    rows = small.run.prompts_per_iteration
    assert trained_evaluations(kto) == 3 * rows  # the reference once
    assert trained_evaluations(replace(kto, optimizer=replace(parts, micro_batch_size=4))) == 2 * rows
    assert any("the policy twice" in told for told in dry_run(kto).values())


def test_the_places_of_a_learners_ranks_are_told(random_model: Path):
    told = dry_run(replace(small_experiment(random_model), cluster=ClusterConfig(learner_ranks=4, learner_gpus=1.0)))
    assert told["place of a learner's rank"].startswith("0.5 CPU, 1 GPU, on a node with ray.io/market-type = !spot")
    assert told["place of a learner's rank"].endswith("; 4 of them")
    assert told["reserved"] == "3 CPUs, 4 GPUs"
