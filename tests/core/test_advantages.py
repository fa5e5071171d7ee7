"""Standardised rewards and the single steps that they are credited to, against loops over plain numbers."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from raypref.core.supervise import advantages, each_alone
from raypref.core.types import Rollout

NAN = float("nan")
STEPS = (2, 5, 7)


def labelled(prompts: int, paths: int, base: int) -> Tensor:
    """[P paths S 1 1 1] whose entries are base + the digits (prompt, path, row)."""
    digits = [[[100 * p + 10 * g + s for s in range(len(STEPS))] for g in range(paths)] for p in range(prompts)]
    return (base + torch.tensor(digits)).float()[..., None, None, None]


def rollout(prompts: tuple[str, ...], final: Tensor, keep_mean: bool = True) -> Rollout:
    """Chains: parents are 1000 + their digits, children 2000, means 3000; `final` has the axes P G R."""
    count, group, rewards = final.shape
    missing = torch.full((count, group, len(STEPS), rewards), NAN)
    return Rollout(
        prompts=prompts,
        steps=torch.tensor(STEPS),
        x_t=labelled(count, group, 1000),
        x_s=labelled(count, group, 2000),
        value=missing,
        parent_value=missing,
        next_value=missing,
        final=final,
        mean=labelled(count, group, 3000) if keep_mean else None,
        policy_version=0,
        policy_checksum="",
    )


def single(values: list[list[float]]) -> Tensor:
    """[P G] on a trailing axis of one reward."""
    return torch.tensor(values)[..., None]


def standardised(values: list[float], clip: float) -> list[float]:
    known = [value for value in values if not math.isnan(value)]
    mean, spread = statistics.fmean(known), statistics.pstdev(known)
    return [max(-clip, min(clip, (value - mean) / (spread + 1e-6))) for value in values]


def test_rewards_are_standardised_over_all_rows_of_their_prompt():
    final = single([[1.0, 4.0], [0.0, 10.0], [2.5, 3.0]])
    found = advantages(rollout(("a", "b", "a"), final), clip=5.0)
    a, b = standardised([1.0, 4.0, 2.5, 3.0], 5.0), standardised([0.0, 10.0], 5.0)
    assert found[0].tolist() == pytest.approx(a[:2], rel=1e-5)
    assert found[1].tolist() == pytest.approx(b, rel=1e-5)
    assert found[2].tolist() == pytest.approx(a[2:], rel=1e-5)


def test_advantages_are_clamped_on_both_sides():
    final = single([[0.0] * 9 + [1.0], [0.0] * 9 + [-1.0]])
    # One in ten: (1 - 0.1) / 0.3 = 3, and -1 / 3 for the others.
    free = advantages(rollout(("a", "b"), final), clip=5.0)
    assert free[0].tolist() == pytest.approx([-1 / 3] * 9 + [3.0], rel=1e-4)
    clamped = advantages(rollout(("a", "b"), final), clip=2.0)
    assert clamped[0].tolist() == pytest.approx([-1 / 3] * 9 + [2.0], rel=1e-4)
    assert clamped[1].tolist() == pytest.approx([1 / 3] * 9 + [-2.0], rel=1e-4)


def test_a_missing_score_has_no_advantage_and_moves_no_other():
    final = single([[1.0, NAN, 4.0], [NAN, NAN, NAN]])
    found = advantages(rollout(("a", "b"), final), clip=5.0)
    assert found[0, [0, 2]].tolist() == pytest.approx(standardised([1.0, 4.0], 5.0), rel=1e-5)
    assert found.isnan().tolist() == [[False, True, False], [True, True, True]]


def test_of_several_rewards_each_is_standardised_by_itself():
    first, second = [1.0, 2.0, 6.0], [500.0, -100.0, 0.0]
    final = torch.tensor([first, second]).T[None]
    wanted = [(a + b) / 2 for a, b in zip(standardised(first, 9.0), standardised(second, 9.0), strict=True)]
    assert advantages(rollout(("a",), final), clip=9.0)[0].tolist() == pytest.approx(wanted, rel=1e-5)
    final[0, 1, 1] = NAN
    assert advantages(rollout(("a",), final), clip=9.0)[0].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("reward", [0.0, 5.3, -52.17, 0.1, 1e6 / 3])
@pytest.mark.parametrize("count", [2, 3, 6, 7, 12])
def test_equal_rewards_have_an_advantage_of_exactly_zero(reward: float, count: int):
    # In float32 the mean of seven times -52.17 is off by one digit, which the division would blow up to 0.88.
    assert advantages(rollout(("a",), single([[reward] * count])), clip=5.0).tolist() == [[0.0] * count]


def test_every_step_of_a_trajectory_has_its_advantage():
    final = single([[0.0, 1.0], [3.0, 1.0]])
    data = rollout(("a", "b"), final)
    batch = each_alone(data, advantages(data, clip=5.0))
    assert batch.prompts == ("a",) * 6 + ("b",) * 6
    assert batch.steps.tolist() == list(STEPS) * 4
    digits = [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]
    assert batch.x_t.flatten(1).tolist() == [[1000.0 + value for value in digits]]
    assert batch.x_s.flatten(1).tolist() == [[2000.0 + value for value in digits]]
    assert batch.mean is not None
    assert batch.mean.flatten(1).tolist() == [[3000.0 + value for value in digits]]
    assert batch.credit.sign().tolist() == [[-1.0] * 3 + [1.0] * 6 + [-1.0] * 3]
    assert batch.weight.tolist() == [1.0] * 12
    assert batch.dropped == {"unscored": 0, "tie": 0, "incomparable": 0, "threshold": 0}


def test_what_teaches_nothing_is_dropped_and_counted():
    advantage = torch.tensor([[0.0, NAN, 2.0], [-1.0, 0.0, 0.0]])
    batch = each_alone(rollout(("a", "b"), torch.zeros(2, 3, 1), keep_mean=False), advantage)
    assert batch.prompts == ("a", "a", "a", "b", "b", "b")
    assert batch.x_s.flatten().tolist() == [2020.0, 2021.0, 2022.0, 2100.0, 2101.0, 2102.0]
    assert batch.credit.tolist() == [[2.0] * 3 + [-1.0] * 3]
    assert batch.dropped == {"unscored": 3, "tie": 9, "incomparable": 0, "threshold": 0}
    assert batch.mean is None
