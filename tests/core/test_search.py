"""What a search records, and the searches that cannot work."""

from typing import Any

import pytest

from raypref.core.search import NEEDS, Guidance, Search

ASCENT = Guidance("reward_ascent")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 1}, "candidates = 1: a preference needs at least 2"),
        ({"steps": ()}, "at least one index"),
        ({"steps": (4, 0)}, "ascending"),
        ({"steps": (0, 0)}, "without repeats"),
        ({"steps": (-1, 3)}, "from 0"),
        ({"inner_steps": 0}, "inner_steps = 0: use 1 or more"),
        ({"steps": (0, 2), "inner_steps": 3}, "run into the next one; keep steps = .0, 2. at least that far apart"),
        ({"step_reward": "final"}, "cannot rank a tree's siblings.*'delta_parent' or 'q', or shape = 'chain'"),
        ({"step_reward": "delta_cross"}, "siblings share theirs.*'delta_parent', or shape = 'chain'"),
        ({"follow": "random", "guidance": ASCENT}, "guidance moves the best candidate: use follow = 'best'"),
        ({"inner_steps": 2, "guidance": ASCENT}, "inner_steps = 2: guidance moves the child of a step; use 1"),
        ({"shape": "chain"}, "'delta_parent' is for siblings.*'delta_cross'"),
        ({"shape": "chain", "step_reward": "delta_parent_printed"}, "'delta_parent_printed' is for siblings"),
        ({"shape": "chain", "step_reward": "q", "inner_steps": 2}, "only a tree's branches have inner steps"),
        ({"shape": "chain", "step_reward": "q", "guidance": ASCENT}, "only a tree's followed branch can be guided"),
    ],
)
def test_searches_that_cannot_work_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Search(**settings)


@pytest.mark.parametrize("scale", [0.0, -0.1, float("nan")])
def test_a_guidance_that_does_not_move_forward_is_refused(scale: float):
    with pytest.raises(ValueError, match="use a positive number, such as"):
        Guidance("reward_ascent", scale=scale)


@pytest.mark.parametrize("kind", sorted(NEEDS))
def test_every_step_reward_has_a_shape_of_search(kind: str):
    fits = set()
    for shape in ("tree", "chain"):
        try:
            fits.add(Search(shape=shape, step_reward=kind).shape)
        except ValueError:
            continue
    wanted = {"final": {"chain"}, "delta_cross": {"chain"}, "delta_parent": {"tree"}, "delta_parent_printed": {"tree"}}
    assert fits == wanted.get(kind, {"tree", "chain"})


def test_every_inner_step_is_recorded():
    assert Search(steps=(0, 4, 8)).recorded() == (0, 4, 8)
    assert Search(steps=(0, 3, 8), inner_steps=3).recorded() == (0, 1, 2, 3, 4, 5, 8, 9, 10)


def test_siblings_share_their_parent_only_at_the_first_step_of_a_branch():
    assert Search().shares_parent()
    assert not Search(steps=(0, 4), inner_steps=2).shares_parent()
    assert not Search(shape="chain", step_reward="final").shares_parent()


def test_steps_beyond_the_sampler_are_refused():
    Search(steps=(0, 19)).check_steps(20)
    with pytest.raises(ValueError, match="the last step is 18"):
        Search(steps=(0, 19)).check_steps(19)
    Search(steps=(0, 17), inner_steps=3).check_steps(20)
    with pytest.raises(ValueError, match="the last step is 18"):
        Search(steps=(0, 17), inner_steps=3).check_steps(19)


@pytest.mark.parametrize("shape", ["tree", "chain"])
@pytest.mark.parametrize("kind", ["lookahead_q", "lookahead_gain", "lookahead_printed"])
def test_nothing_can_be_looked_ahead_at_after_the_last_step(kind: str, shape: str):
    Search(shape=shape, steps=(0, 18), step_reward=kind).check_steps(20)
    with pytest.raises(ValueError, match="nothing comes after step 19; leave it out"):
        Search(shape=shape, steps=(0, 19), step_reward=kind).check_steps(20)
    with pytest.raises(ValueError, match="nothing comes after step 19"):
        Search(steps=(0, 17), step_reward=kind, inner_steps=3).check_steps(20)
