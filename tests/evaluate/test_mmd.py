"""The maximum mean discrepancy, against its definition and what it must not depend on."""

import itertools
import math

import pytest
import torch

from raypref.core.seeding import Key
from raypref.evaluate.mmd import (
    SWAPS,
    _between,
    discrepancy,
    discrepancy_of_same_prompts,
    median_distance,
    swap_test,
)

KEY = Key(0)("bootstrap")


def by_definition(x, y, bandwidth, paired):
    """Gretton et al. 2012, eq. 3, by loops: pictures of one prompt (and, paired, of the same prompt) left out."""

    def mean(a, b, same):
        values = [
            math.exp(-float((one - two).double().square().sum()) / (2 * bandwidth**2))
            for p, row in enumerate(a) for q, other in enumerate(b) if not (same and p == q)
            for one in row for two in other
        ]  # fmt: skip
        return sum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, paired)


def test_it_is_the_unbiased_estimate():
    x, y = Key(1)("x").normal(4, 2, 3), Key(1)("y").normal(4, 2, 3) + 1
    found = discrepancy_of_same_prompts(x, y, 1.5, KEY)
    assert found.mean == pytest.approx(by_definition(x, y, 1.5, paired=True))
    others = Key(1)("others").normal(5, 1, 3)
    found = discrepancy(x, others, 1.5, KEY)
    assert found.mean == pytest.approx(by_definition(x, others, 1.5, paired=False))
    assert found.n == 4


def test_sets_drawn_alike_are_not_told_apart_and_others_are():
    x, y = Key(2)("x").normal(60, 2, 4), Key(2)("y").normal(60, 2, 4)
    alike, apart = discrepancy_of_same_prompts(x, y, 2.0, KEY), discrepancy_of_same_prompts(x, y + 1, 2.0, KEY)
    assert alike.low < 0 < alike.high
    assert apart.low > 0.05
    assert discrepancy(x, y, 2.0, KEY).low < 0.005
    assert discrepancy(x, y + 1, 2.0, KEY).low > 0.05


def test_a_resample_counts_pairs_of_different_prompts_as_often_as_they_were_drawn():
    kernel = torch.tensor([[0.0, 3.0, 5.0], [3.0, 0.0, 7.0], [5.0, 7.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [2.0, 2.0, 1.0]], dtype=torch.float64)
    found = _between(kernel, weights)
    # By drawing: prompts a, a, b have two pairs of a with b; a, a, b, b, c have 4 ab, 2 ac, 2 bc.
    assert found.tolist() == pytest.approx([5.0, 3.0, 7.0, (4 * 3 + 2 * 5 + 2 * 7) / 8])


def test_the_p_value_is_the_share_of_swaps_that_are_as_far_apart():
    x, y = Key(4)("x").normal(5, 2, 3), Key(4)("y").normal(5, 2, 3) + 0.8
    plain, as_far = by_definition(x, y, 1.5, paired=True), 0
    for swapped in itertools.product((False, True), repeat=5):
        turn = torch.tensor(swapped)[:, None, None]
        as_far += by_definition(torch.where(turn, y, x), torch.where(turn, x, y), 1.5, paired=True) >= plain - 1e-9
    assert 2 <= as_far < 16  # all as they are, and all swapped, are as far apart
    assert swap_test(x, y, 1.5, KEY) == pytest.approx(as_far / 32, abs=0.02)
    assert swap_test(x, x, 1.5, KEY) == 1.0


def test_where_nothing_differs_the_p_value_is_small_as_seldom_as_it_says():
    found = torch.tensor(
        [swap_test(Key(trial)("x").normal(15, 2, 4), Key(trial)("y").normal(15, 2, 4), 2.0, KEY) for trial in range(80)]
    )
    assert float((found <= 0.1).float().mean()) < 0.2
    assert 0.35 < float(found.mean()) < 0.65
    apart = swap_test(Key(1)("x").normal(40, 2, 4), Key(1)("y").normal(40, 2, 4) + 1, 2.0, KEY)
    assert apart == 1 / (1 + SWAPS)  # as they lie they are as far apart as they are: never 0


def test_it_does_not_know_the_order_of_prompts():
    x, y = Key(3)("x").normal(6, 2, 3), Key(3)("y").normal(6, 2, 3)
    order = Key(3)("order").permutation(6)
    plain, mixed = (discrepancy_of_same_prompts(*sets, 1.0, KEY) for sets in ((x, y), (x[order], y[order])))
    assert mixed.mean == pytest.approx(plain.mean)


def test_the_bandwidth_is_the_median_between_prompts():
    x = torch.tensor([[[0.0], [0.1]], [[1.0], [1.1]]])
    assert median_distance(x) == pytest.approx(1.0)
