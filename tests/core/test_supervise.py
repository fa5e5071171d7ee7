"""Which candidates become a pair, and which tensors come with them. Every number tells where it came from."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raypref.core.search import StepReward
from raypref.core.supervise import best_vs_worst, credit, standing, step_reward
from raypref.core.types import LOSE, WIN, Rollout, Transitions, concat_rollouts

NAN = float("nan")


def labelled(*sizes: int, base: int) -> Tensor:
    """[*sizes 1 1 1] whose entry at (i, j, k) is base + 100 i + 10 j + k."""
    grids = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    numbers = sum(grid * 10 ** (len(sizes) - 1 - axis) for axis, grid in enumerate(grids))
    return (base + numbers).float()[..., None, None, None]


def rollout(value: Tensor, states: int = 1, **changes: Any) -> Rollout:
    """Parents are 1000 + the digits (prompt, state, row), children 2000 + the digits (prompt, candidate, row), means
    of a parent 3000 + its digits. `value` has the axes P G S R; other scores are missing."""
    prompts, candidates, steps, rewards = value.shape
    scores = {
        "value": value,
        "parent_value": torch.full((prompts, states, steps, rewards), NAN),
        "next_value": torch.full_like(value, NAN),
        "final": torch.full((prompts, candidates, rewards), NAN),
    }
    fields = {
        "prompts": tuple("abcdef"[:prompts]),
        "steps": torch.tensor([3, 5, 8, 13][:steps]),
        "x_t": labelled(prompts, states, steps, base=1000),
        "x_s": labelled(prompts, candidates, steps, base=2000),
        "mean": None,
        "policy_version": 0,
        "policy_checksum": "",
    }
    return Rollout(**(fields | scores | changes))


def single(values: list[list[list[float]]]) -> Tensor:
    """One reward's scores as nested lists [P G S], on a trailing axis of one reward."""
    return torch.tensor(values)[..., None]


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
    value = single([[[0.1, 5.0], [0.9, -1.0], [0.5, 2.0]], [[3.0, 0.0], [1.0, 1.0], [2.0, 2.0]]])  # P=2 G=3 S=2
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
    value = single([[[0.0, 7.0], [1.0, 6.0]]])
    pairs = best_vs_worst(rollout(value, states=2), value)
    assert numbers(pairs) == [("a", 3, [1010, 1000], 2010, 2000), ("a", 5, [1001, 1011], 2001, 2011)]


def test_siblings_have_one_parent_and_chains_two():
    value = single([[[0.0], [1.0], [2.0]]])
    assert best_vs_worst(rollout(value), value).x_t.shape == (1, 1, 1, 1, 1)
    assert best_vs_worst(rollout(value, states=3), value).x_t.shape == (2, 1, 1, 1, 1)


def test_credit_of_winners_is_above_credit_of_losers():
    value = torch.randn(4, 5, 3, 1, generator=torch.Generator().manual_seed(0))
    pairs = best_vs_worst(rollout(value), value)
    assert len(pairs) == 12
    assert bool((pairs.credit[WIN] > pairs.credit[LOSE]).all())


def test_ties_give_no_pair():
    value = single([[[0.5, 0.5], [0.5, 0.6]]])
    assert numbers(best_vs_worst(rollout(value), value)) == [("a", 5, [1001], 2011, 2001)]


def test_a_missing_score_is_dropped_and_not_a_low_one():
    value = single([[[NAN], [2.0], [1.0]], [[0.0], [NAN], [-3.0]]])
    assert numbers(best_vs_worst(rollout(value), value)) == [("a", 3, [1000], 2010, 2020), ("b", 3, [1100], 2100, 2120)]


def test_a_missing_score_is_not_zero_either():
    # Were NaN scored 0, it would beat -1 and lose to +1.
    value = single([[[NAN], [-1.0]], [[NAN], [1.0]]])
    assert len(best_vs_worst(rollout(value), value)) == 0
    value = single([[[NAN], [-1.0], [-2.0]], [[2.0], [1.0], [NAN]]])
    assert numbers(best_vs_worst(rollout(value), value)) == [("a", 3, [1000], 2010, 2020), ("b", 3, [1100], 2100, 2110)]


def test_no_pair_where_all_scores_are_missing():
    value = torch.full((2, 3, 2, 1), NAN)
    pairs = best_vs_worst(rollout(value), value)
    assert (len(pairs), pairs.x_s.shape) == (0, (2, 0, 1, 1, 1))


SCORES = {"parent": 7.0, "child": 10.0, "following": 14.0}


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("q", 10.0),  # the child
        ("delta_parent", 3.0),  # 10 - 7, what the step gained
        ("delta_cross", 3.0),
        ("delta_parent_printed", -3.0),
        ("lookahead_q", 14.0),
        ("lookahead_gain", 4.0),  # 14 - 10, what the next step gains
        ("lookahead_printed", -4.0),
    ],
)
def test_readings_of_equation_six(kind: StepReward, wanted: float):
    parent, child, following = (torch.tensor([value]) for value in SCORES.values())
    assert credit(kind, parent, child, following).tolist() == [wanted]
    shape = (1, 1, 1, 1)
    data = rollout(child.reshape(shape), parent_value=parent.reshape(shape), next_value=following.reshape(shape))
    assert step_reward(data, kind).tolist() == [[[[wanted]]]]


def test_the_final_reward_is_no_function_of_predicted_pictures():
    with pytest.raises(ValueError, match="not a function of predicted pictures"):
        credit("final", torch.zeros(1), torch.zeros(1), torch.zeros(1))


def test_the_gain_is_child_minus_the_parent_that_siblings_share():
    value, parent = single([[[5.0, 1.0], [3.0, 4.0]]]), single([[[2.0, 10.0]]])
    gain = step_reward(rollout(value, parent_value=parent), "delta_parent")
    assert gain.tolist() == single([[[3.0, -9.0], [1.0, -6.0]]]).tolist()


def test_q_is_the_childs_value_and_final_is_the_picture_at_every_step():
    value, final = single([[[5.0, 1.0], [3.0, 4.0]]]), torch.tensor([[[0.25], [0.75]]])
    assert step_reward(rollout(value, final=final), "q").tolist() == value.tolist()
    wanted = single([[[0.25, 0.25], [0.75, 0.75]]])
    assert step_reward(rollout(value, final=final), "final").tolist() == wanted.tolist()


def pairs_of(data: Rollout, kind: StepReward) -> list[tuple]:
    return numbers(best_vs_worst(data, step_reward(data, kind)))


def test_siblings_are_ranked_alike_by_gain_and_by_value_and_reversed_as_printed():
    generator = torch.Generator().manual_seed(1)
    data = rollout(
        torch.randn(3, 4, 2, 1, generator=generator), parent_value=torch.randn(3, 1, 2, 1, generator=generator)
    )
    by_value, printed = pairs_of(data, "q"), pairs_of(data, "delta_parent_printed")
    assert len(by_value) == 6
    assert pairs_of(data, "delta_parent") == by_value
    assert [(*row[:3], row[4], row[3]) for row in printed] == by_value


def test_different_parents_can_turn_the_ranking_round():
    # Candidate 0 has the higher value, but its parent was better still.
    data = rollout(single([[[5.0], [3.0]]]), parent_value=single([[[6.0], [1.0]]]), states=2)
    assert pairs_of(data, "q") == [("a", 3, [1000, 1010], 2000, 2010)]
    assert pairs_of(data, "delta_cross") == [("a", 3, [1010, 1000], 2010, 2000)]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    # Q along the chain is 2, 4, 3, 9, and after each child 3, 9, 8: the gains add up to 9 - 2, printed to 2 - 9;
    # looking ahead they are one step late, 8 - 4; values by themselves count the end several times.
    [("delta_parent", 7.0), ("delta_parent_printed", -7.0), ("delta_cross", 7.0), ("lookahead_gain", 4.0),
     ("lookahead_printed", -4.0), ("q", 16.0)],
)  # fmt: skip
def test_gains_of_a_chain_telescope(kind: StepReward, wanted: float):
    path = torch.tensor([2.0, 4.0, 3.0, 9.0, 8.0])
    parent, child, following = (path[None, None, at : at + 3, None] for at in (0, 1, 2))
    data = rollout(child, parent_value=parent, next_value=following)
    assert float(step_reward(data, kind).sum()) == wanted


def beats(first: list[float], second: list[float]) -> bool:
    no_worse = all(a >= b for a, b in zip(first, second, strict=True))
    return no_worse and any(a > b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("rewards", [1, 2, 3])
def test_standing_is_wins_less_losses(rewards: int):
    scores = torch.randint(0, 4, (5, 4, 3, rewards), generator=torch.Generator().manual_seed(0)).float()
    scores[0, 1, 2, 0] = NAN
    found = standing(scores)
    assert found.shape == (5, 4, 3)
    for p in range(5):
        for s in range(3):
            rows = scores[p, :, s].tolist()
            for g, row in enumerate(rows):
                wanted = sum(beats(row, other) - beats(other, row) for other in rows)
                unknown = any(math.isnan(value) for value in row)
                assert math.isnan(found[p, g, s]) if unknown else float(found[p, g, s]) == wanted


def test_one_reward_missing_is_a_candidate_missing():
    credit_ = torch.tensor([[[[9.0, NAN]], [[2.0, 2.0]], [[1.0, 1.0]]]])
    found = best_vs_worst(rollout(credit_), credit_)
    assert numbers(found) == [("a", 3, [1000], 2010, 2020)]


def test_a_winner_is_at_least_as_good_in_every_reward():
    # Step 3: candidate 1 beats 0 in both rewards. Step 5: each is better in one. Step 8: alike in one, better in the
    # other. Step 13: alike in both.
    value = torch.tensor(
        [[[[1.0, 1.0], [5.0, 0.0], [2.0, 3.0], [4.0, 4.0]], [[2.0, 2.0], [0.0, 5.0], [2.0, 1.0], [4.0, 4.0]]]]
    )
    found = best_vs_worst(rollout(value), value)
    assert numbers(found) == [("a", 3, [1000], 2010, 2000), ("a", 8, [1002], 2002, 2012)]
    assert found.dropped == {"unscored": 0, "tie": 1, "incomparable": 1, "threshold": 0}
    assert found.credit.tolist() == [[2.0, 2.0], [1.0, 2.0]]  # of the first reward, in which step 8 is a tie


def test_of_several_the_dominant_wins_and_the_dominated_loses():
    value = torch.tensor([[[[1.0, 2.0]], [[3.0, 3.0]], [[2.0, 1.0]], [[0.0, 0.0]]]])
    assert numbers(best_vs_worst(rollout(value), value)) == [("a", 3, [1000], 2010, 2030)]


def test_where_best_and_worst_cannot_be_compared_there_is_no_pair():
    # Candidates 0 and 2 each beat one other and are best, 1 and 3 worst; but 0 is not better than 1 in both rewards.
    value = torch.tensor([[[[5.0, 0.0]], [[0.0, 4.0]], [[0.0, 5.0]], [[4.0, 0.0]]]])
    assert standing(value).flatten().tolist() == [1.0, -1.0, 1.0, -1.0]
    found = best_vs_worst(rollout(value), value)
    assert len(found) == 0
    assert found.dropped == {"unscored": 0, "tie": 0, "incomparable": 1, "threshold": 0}


def test_a_tie_is_among_the_scored_and_in_every_reward():
    # a: alike beside one without a score; alike in the first reward only. b: no two can be compared; alike.
    value = torch.tensor(
        [
            [[[NAN, 9.0], [1.0, 1.0]], [[2.0, 3.0], [1.0, 2.0]], [[2.0, 3.0], [1.0, 1.5]]],
            [[[1.0, 3.0], [4.0, 4.0]], [[2.0, 2.0], [4.0, 4.0]], [[3.0, 1.0], [4.0, 4.0]]],
        ]
    )
    found = best_vs_worst(rollout(value), value)
    assert numbers(found) == [("a", 5, [1001], 2011, 2001)]
    assert found.dropped == {"unscored": 0, "tie": 2, "incomparable": 1, "threshold": 0}


# SPO's rule: as logits of a softmax, scores that differ by `gap` have probabilities that differ by tanh(gap / 2).
# (1 + 0.3) / (1 - 0.3) = 1.857143 = e^0.619039; (1 + 0.4) / (1 - 0.4) = 2.333333 = e^0.847298.
@pytest.mark.parametrize(("threshold", "gap"), [(0.3, 0.619039), (0.4, 0.847298)])
def test_the_threshold_is_a_difference_of_probabilities(threshold: float, gap: float):
    value = single([[[gap - 1e-4, gap + 1e-4], [0.0, 0.0]]])
    found = best_vs_worst(rollout(value), value, threshold)
    assert numbers(found) == [("a", 5, [1001], 2001, 2011)]
    assert found.dropped == {"unscored": 0, "tie": 0, "incomparable": 0, "threshold": 1}
    chosen, other = torch.softmax(torch.tensor([gap, 0.0]), 0).tolist()
    assert chosen - other == pytest.approx(threshold, abs=1e-6)


def test_of_several_rewards_one_clear_gap_is_enough():
    value = torch.tensor([[[[0.1, 3.0], [0.1, 0.1]], [[0.0, 0.0], [0.0, 0.0]]]])
    found = best_vs_worst(rollout(value), value, threshold=0.3)
    assert found.steps.tolist() == [3]
    assert found.dropped == {"unscored": 0, "tie": 0, "incomparable": 0, "threshold": 1}


def test_dropped_pairs_are_counted_by_their_reason():
    value = single([[[NAN, 1.0, 0.0, 0.1], [1.0, 1.0, 2.0, 0.0]], [[NAN, NAN, 5.0, 5.0], [NAN, 2.0, 5.0, 0.0]]])
    found = best_vs_worst(rollout(value), value, threshold=0.3)
    # a: step 3 lacks a score, 5 is a tie, 8 a pair, 13 too close; b: 3 and 5 lack scores, 8 is a tie, 13 a pair.
    assert found.dropped == {"unscored": 3, "tie": 2, "incomparable": 0, "threshold": 1}
    assert [(found.prompts[row], int(found.steps[row])) for row in range(len(found))] == [("a", 8), ("b", 13)]


def test_the_mean_of_the_policy_that_drew_it_comes_with_each_parent():
    value = single([[[0.0, 7.0], [1.0, 6.0]]])
    mean = labelled(1, 2, 2, base=3000)
    own = best_vs_worst(rollout(value, states=2, mean=mean), value)
    assert own.mean is not None
    assert own.mean.flatten(1).tolist() == [[3010.0, 3001.0], [3000.0, 3011.0]]
    shared = best_vs_worst(rollout(value, mean=mean[:, :1]), value)
    assert shared.mean is not None
    assert shared.mean.flatten(1).tolist() == [[3000.0, 3001.0]]
    assert best_vs_worst(rollout(value), value).mean is None


def test_taking_rows_keeps_everything_together():
    value = single([[[0.0, 7.0], [1.0, 6.0]], [[5.0, 2.0], [4.0, 3.0]]])
    pairs = best_vs_worst(rollout(value, states=2), value)
    pairs = replace(pairs, mean=pairs.x_t + 1000, reference_out=pairs.x_t + 2000, reference_version=7)
    some = pairs.take(torch.tensor([3, 0]))
    assert numbers(some) == [numbers(pairs)[3], numbers(pairs)[0]]
    assert some.credit.tolist() == [[3.0, 1.0], [2.0, 0.0]]
    assert some.mean is not None
    assert some.reference_out is not None
    assert torch.equal(some.mean, some.x_t + 1000)
    assert torch.equal(some.reference_out, some.x_t + 2000)
    assert some.reference_version == 7


def test_chunks_are_joined_in_order():
    first, second = rollout(torch.zeros(1, 2, 2, 1)), rollout(torch.ones(2, 2, 2, 1))
    joined = concat_rollouts([first, second])
    assert joined.prompts == ("a", "a", "b")
    assert joined.x_s.flatten(1).tolist() == [*first.x_s.flatten(1).tolist(), *second.x_s.flatten(1).tolist()]
    assert joined.value.flatten(1).tolist() == [[0.0] * 4, [1.0] * 4, [1.0] * 4]


def test_means_are_joined_where_a_search_kept_them():
    first = rollout(torch.zeros(1, 2, 2, 1), mean=labelled(1, 1, 2, base=3000))
    second = rollout(torch.zeros(1, 2, 2, 1), mean=labelled(1, 1, 2, base=4000))
    joined = concat_rollouts([first, second]).mean
    assert joined is not None
    assert joined.flatten().tolist() == [3000.0, 3001.0, 4000.0, 4001.0]
    assert concat_rollouts([rollout(torch.zeros(1, 2, 2, 1))]).mean is None


def test_chunks_of_different_weights_are_refused():
    first = rollout(torch.zeros(1, 2, 2, 1))
    second = replace(first, policy_checksum="other")
    with pytest.raises(ValueError, match="different weights"):
        concat_rollouts([first, second])
