"""The maximum mean discrepancy, against its definition and what it must not depend on."""

import math

import pytest
import torch

from raypref.core.seeding import Key
from raypref.evaluate.mmd import discrepancy, discrepancy_of_same_prompts, median_distance

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


def test_it_does_not_know_the_order_of_prompts():
    x, y = Key(3)("x").normal(6, 2, 3), Key(3)("y").normal(6, 2, 3)
    order = Key(3)("order").permutation(6)
    plain, mixed = (discrepancy_of_same_prompts(*sets, 1.0, KEY) for sets in ((x, y), (x[order], y[order])))
    assert mixed.mean == pytest.approx(plain.mean)


def test_the_bandwidth_is_the_median_between_prompts():
    x = torch.tensor([[[0.0], [0.1]], [[1.0], [1.1]]])
    assert median_distance(x) == pytest.approx(1.0)
