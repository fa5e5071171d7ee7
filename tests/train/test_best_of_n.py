"""Step-wise best-of-N: a search that is followed to its finished picture."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raypref.core.search import Search, StepReward
from raypref.core.seeding import Key
from raypref.train.rollout import ScoreRequest, best_of_n, finish
from tests.reenactment import Reenactment
from tests.toys import ToyDenoiser, chunk_of, drive, score_of, toy_walk

CHUNK = chunk_of(("a", "f", "q", "z") * 4)
DENSE = Search(candidates=4, steps=tuple(range(20)), step_reward="q")


def chosen(step_reward: StepReward, search: Search = DENSE) -> Tensor:
    return drive(best_of_n(toy_walk(ToyDenoiser(), CHUNK), replace(search, step_reward=step_reward)))[0]


def quality(x_0: Tensor) -> Tensor:
    return score_of(ScoreRequest(x_0, CHUNK.prompts, torch.zeros(len(x_0), dtype=torch.int64)))


@pytest.mark.parametrize("steps", [tuple(range(20)), (0, 4, 8, 12, 16)])
def test_the_gain_chooses_what_q_chooses_and_its_printed_sign_does_not(steps: tuple[int, ...]):
    search = replace(DENSE, steps=steps)
    q, gain, printed = (chosen(rule, search) for rule in ("q", "delta_parent", "delta_parent_printed"))
    assert torch.equal(q, gain)
    assert not torch.isclose(q, printed).flatten(1).all(1).any()


def test_choosing_beats_not_choosing_and_choosing_the_worst_loses():
    plain = finish(toy_walk(ToyDenoiser(), CHUNK))[0]
    best, worst = chosen("q"), chosen("delta_parent_printed")
    assert float(quality(best).mean()) > float(quality(plain).mean()) + 1
    assert float(quality(worst).mean()) < float(quality(plain).mean()) - 1


def test_after_the_last_choice_it_is_a_plain_trajectory():
    chunk = chunk_of(("q",))
    denoiser = ToyDenoiser()
    found, requests = drive(best_of_n(toy_walk(denoiser, chunk), Search(steps=(3,), step_reward="q")))
    assert [len(request.x_0) for request in requests] == [2]
    assert denoiser.guided == 20 + 1  # a plain trajectory, and the other child
    slow = Reenactment("q", Key(3)("rollout", 0))
    x_t = slow.start()
    for step in range(3):
        x_t = slow.child(step, x_t, 0)
    x_t = max((slow.child(3, x_t, candidate) for candidate in range(2)), key=lambda x_s: float(slow.quality(4, x_s)))
    for step in range(4, 20):
        x_t = slow.child(step, x_t, 0)
    torch.testing.assert_close(found, x_t, rtol=1e-3, atol=1e-3)
