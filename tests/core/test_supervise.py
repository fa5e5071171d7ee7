"""Which candidates become a pair, and which tensors come with them. Every number tells where it came from."""

import pytest
import torch
from torch import Tensor

from raypref.core.search import Search
from raypref.core.supervise import best_vs_worst, step_reward
from raypref.core.types import LOSE, WIN, Rollout, Transitions, concat_rollouts

NAN = float("nan")


def labelled(*sizes: int, base: int) -> Tensor:
    """[*sizes 1 1 1] whose entry at (i, j, k) is base + 100 i + 10 j + k."""
    grids = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    numbers = sum(grid * 10 ** (len(sizes) - 1 - axis) for axis, grid in enumerate(grids))
    return (base + numbers).float()[..., None, None, None]


def rollout(value: Tensor, parent_value: Tensor | None = None, final: Tensor | None = None, states: int = 1) -> Rollout:
    """Parents are 1000 + the digits (prompt, state, row), children 2000 + the digits (prompt, candidate, row)."""
    prompts, candidates, steps = value.shape
    return Rollout(
        prompts=tuple("abcdef"[:prompts]),
        steps=torch.tensor([3, 5, 8, 13][:steps]),
        x_t=labelled(prompts, states, steps, base=1000),
        x_s=labelled(prompts, candidates, steps, base=2000),
        value=value,
        parent_value=torch.full((prompts, states, steps), NAN) if parent_value is None else parent_value,
        final=torch.full((prompts, candidates), NAN) if final is None else final,
        policy_version=0,
        policy_checksum="",
    )


def numbers(pairs: Transitions) -> list[tuple]:
    """(prompt, step, parents, winner, loser) for each pair."""
    return [
        (
            pairs.prompts[b],
            int(pairs.steps[b]),
            pairs.x_t[:, b].flatten().int().tolist(),
            int(pairs.x_s[WIN, b]),
            int(pairs.x_s[LOSE, b]),
        )
        for b in range(len(pairs))
    ]


def test_the_best_wins_against_the_worst_of_all_candidates():
    value = torch.tensor([[[0.1, 5.0], [0.9, -1.0], [0.5, 2.0]], [[3.0, 0.0], [1.0, 1.0], [2.0, 2.0]]])  # [P=2 G=3 S=2]
    pairs = best_vs_worst(rollout(value), value)
    assert numbers(pairs) == [
        ("a", 3, [1000], 2010, 2000),
        ("a", 5, [1001], 2001, 2011),
        ("b", 3, [1100], 2100, 2110),
        ("b", 5, [1101], 2121, 2101),
    ]
    assert torch.equal(pairs.credit, torch.tensor([[0.9, 5.0, 3.0, 2.0], [0.1, -1.0, 1.0, 0.0]]))
    assert pairs.weight.tolist() == [1.0] * 4


def test_arms_of_chains_come_with_their_own_parents():
    value = torch.tensor([[[0.0, 7.0], [1.0, 6.0]]])
    pairs = best_vs_worst(rollout(value, states=2), value)
    assert numbers(pairs) == [("a", 3, [1010, 1000], 2010, 2000), ("a", 5, [1001, 1011], 2001, 2011)]


def test_siblings_have_one_parent_and_chains_two():
    value = torch.tensor([[[0.0], [1.0], [2.0]]])
    assert best_vs_worst(rollout(value), value).x_t.shape == (1, 1, 1, 1, 1)
    assert best_vs_worst(rollout(value, states=3), value).x_t.shape == (2, 1, 1, 1, 1)


def test_credit_of_winners_is_above_credit_of_losers():
    value = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    pairs = best_vs_worst(rollout(value), value)
    assert len(pairs) == 12
    assert bool((pairs.credit[WIN] > pairs.credit[LOSE]).all())


def test_ties_give_no_pair():
    value = torch.tensor([[[0.5, 0.5], [0.5, 0.6]]])
    assert numbers(best_vs_worst(rollout(value), value)) == [("a", 5, [1001], 2011, 2001)]


def test_a_missing_score_is_dropped_and_not_a_low_one():
    value = torch.tensor([[[NAN], [2.0], [1.0]], [[0.0], [NAN], [-3.0]]])
    assert numbers(best_vs_worst(rollout(value), value)) == [("a", 3, [1000], 2010, 2020), ("b", 3, [1100], 2100, 2120)]


def test_a_missing_score_is_not_zero_either():
    # Were NaN scored 0, it would beat -1 and lose to +1.
    value = torch.tensor([[[NAN], [-1.0]], [[NAN], [1.0]]])
    assert len(best_vs_worst(rollout(value), value)) == 0
    value = torch.tensor([[[NAN], [-1.0], [-2.0]], [[2.0], [1.0], [NAN]]])
    assert numbers(best_vs_worst(rollout(value), value)) == [("a", 3, [1000], 2010, 2020), ("b", 3, [1100], 2100, 2110)]


def test_no_pair_where_all_scores_are_missing():
    value = torch.full((2, 3, 2), NAN)
    pairs = best_vs_worst(rollout(value), value)
    assert (len(pairs), pairs.x_s.shape) == (0, (2, 0, 1, 1, 1))


def test_the_gain_is_child_minus_parent():
    value, parent = torch.tensor([[[5.0, 1.0], [3.0, 4.0]]]), torch.tensor([[[2.0, 10.0]]])
    gain = step_reward(rollout(value, parent), "delta_parent")
    assert gain.tolist() == [[[3.0, -9.0], [1.0, -6.0]]]


def test_q_is_the_childs_value_and_final_is_the_picture_at_every_step():
    value, final = torch.tensor([[[5.0, 1.0], [3.0, 4.0]]]), torch.tensor([[0.25, 0.75]])
    assert step_reward(rollout(value, final=final), "q").tolist() == value.tolist()
    assert step_reward(rollout(value, final=final), "final").tolist() == [[[0.25, 0.25], [0.75, 0.75]]]


def test_siblings_are_ranked_alike_by_gain_and_by_value():
    generator = torch.Generator().manual_seed(1)
    data = rollout(torch.randn(3, 4, 2, generator=generator), torch.randn(3, 1, 2, generator=generator))
    by_gain, by_value = (best_vs_worst(data, step_reward(data, kind)) for kind in ("delta_parent", "q"))
    assert numbers(by_gain) == numbers(by_value)


def test_different_parents_can_turn_the_ranking_round():
    # Candidate 0 has the higher value, but its parent was better still.
    data = rollout(torch.tensor([[[5.0], [3.0]]]), torch.tensor([[[6.0], [1.0]]]), states=2)
    assert numbers(best_vs_worst(data, step_reward(data, "q"))) == [("a", 3, [1000, 1010], 2000, 2010)]
    assert numbers(best_vs_worst(data, step_reward(data, "delta_parent"))) == [("a", 3, [1010, 1000], 2010, 2000)]


def test_the_gains_of_a_chain_add_up_to_what_the_whole_trajectory_gained():
    # Consecutive steps: each child is the next parent. sum of gains = Q(x_0) - Q(x_T) = 9 - 2.
    path = torch.tensor([2.0, 4.0, 3.0, 9.0])
    data = rollout(path[None, None, 1:], path[None, None, :-1])
    assert float(step_reward(data, "delta_parent").sum()) == 7.0


def test_taking_rows_keeps_everything_together():
    value = torch.tensor([[[0.0, 7.0], [1.0, 6.0]], [[5.0, 2.0], [4.0, 3.0]]])
    pairs = best_vs_worst(rollout(value, states=2), value)
    some = pairs.take(torch.tensor([3, 0]))
    assert numbers(some) == [numbers(pairs)[3], numbers(pairs)[0]]
    assert some.credit.tolist() == [[3.0, 1.0], [2.0, 0.0]]


def test_chunks_are_joined_in_order():
    first, second = rollout(torch.zeros(1, 2, 2)), rollout(torch.ones(2, 2, 2))
    joined = concat_rollouts([first, second])
    assert joined.prompts == ("a", "a", "b")
    assert joined.x_s.flatten(1).tolist() == [*first.x_s.flatten(1).tolist(), *second.x_s.flatten(1).tolist()]
    assert joined.value.flatten(1).tolist() == [[0.0] * 4, [1.0] * 4, [1.0] * 4]


def test_chunks_of_different_weights_are_refused():
    first = rollout(torch.zeros(1, 2, 2))
    second = Rollout(**(vars(first) | {"policy_checksum": "other"}))
    with pytest.raises(ValueError, match="different weights"):
        concat_rollouts([first, second])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 1}, "a preference needs at least 2"),
        ({"steps": ()}, "at least one index"),
        ({"steps": (4, 0)}, "ascending"),
        ({"steps": (0, 0)}, "without repeats"),
        ({"steps": (-1, 3)}, "from 0"),
        ({"step_reward": "final"}, "cannot rank a tree's siblings"),
    ],
)
def test_searches_that_cannot_work_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Search(**settings)


def test_steps_beyond_the_sampler_are_refused():
    Search(steps=(0, 19)).check_steps(20)
    with pytest.raises(ValueError, match="the last step is 18"):
        Search(steps=(0, 19)).check_steps(19)
