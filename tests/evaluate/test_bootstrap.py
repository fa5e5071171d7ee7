"""Means over prompts and how sure they are, against closed forms and invariances."""

import math
from statistics import NormalDist

import pytest
import torch

from raypref.core.seeding import Key
from raypref.evaluate.bootstrap import RESAMPLES, by_prompt, measured, resamples, tied, won

KEY = Key(7)("bootstrap")


def test_mean_and_standard_error_are_the_textbooks():
    found = measured(torch.tensor([1.0, 3.0, 8.0]), KEY)
    # mean 4; squares 9 + 1 + 16 = 26, variance 13, standard error sqrt(13 / 3)
    assert found.mean == pytest.approx(4.0)
    assert found.standard_error == pytest.approx(math.sqrt(13 / 3))
    assert found.n == 3


def test_the_interval_of_a_share_is_the_binomials():
    # Resampling 0s and 1s draws from a binomial: its quantiles are known.
    count, ones = 400, 240
    found = measured(torch.tensor([1.0] * ones + [0.0] * (count - ones)), KEY)
    share = ones / count
    half = NormalDist().inv_cdf(0.975) * math.sqrt(share * (1 - share) / count)
    assert found.mean == pytest.approx(share)
    assert found.low == pytest.approx(share - half, abs=0.1 * half)
    assert found.high == pytest.approx(share + half, abs=0.1 * half)


def test_resamples_are_addressed_uniform_and_mirrored():
    rows = resamples(5, KEY)
    assert torch.equal(rows, resamples(5, KEY))
    assert not torch.equal(rows, resamples(5, Key(8)("bootstrap")))
    assert rows.shape == (RESAMPLES, 5)
    assert torch.equal(rows[RESAMPLES // 2 :], 4 - rows[: RESAMPLES // 2])
    shares = torch.bincount(rows.flatten(), minlength=5) / rows.numel()
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.01, rtol=0)


def test_the_order_of_prompts_does_not_matter_and_signs_mirror():
    values = Key(1)("values").normal(37)
    found = measured(values, KEY)
    assert measured(values[Key(2)("order").permutation(37)], KEY) == found
    mirrored = measured(-values, KEY)
    assert (mirrored.mean, mirrored.low, mirrored.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert mirrored.standard_error == pytest.approx(found.standard_error)


def test_a_constant_has_no_error_and_nothing_has_no_mean():
    same = measured(torch.full((6,), 0.5), KEY)
    assert (same.mean, same.standard_error, same.low, same.high) == (0.5, 0.0, 0.5, 0.5)
    assert measured(torch.tensor([0.5, torch.nan]), KEY).n == 1
    assert math.isnan(measured(torch.tensor([0.5]), KEY).standard_error)
    nothing = measured(torch.tensor([torch.nan]), KEY)
    assert nothing.n == 0
    assert math.isnan(nothing.mean)


def test_pictures_of_a_prompt_count_as_one_draw():
    scores = torch.tensor([[1.0, 3.0], [torch.nan, 5.0], [torch.nan, torch.nan]])
    torch.testing.assert_close(
        by_prompt(scores), torch.tensor([2.0, 5.0, torch.nan], dtype=torch.float64), equal_nan=True
    )


def test_ties_count_half_and_missing_scores_do_not_count():
    ours, theirs = torch.tensor([[2.0, 1.0, 1.0, torch.nan]]), torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    torch.testing.assert_close(won(ours, theirs), torch.tensor([[1.0, 0.0, 0.5, torch.nan]]), equal_nan=True)
    torch.testing.assert_close(tied(ours, theirs), torch.tensor([[0.0, 0.0, 1.0, torch.nan]]), equal_nan=True)
    torch.testing.assert_close(won(ours, theirs) + won(theirs, ours), torch.tensor([[1.0, 1, 1, torch.nan]]),
                               equal_nan=True)  # fmt: skip
    assert measured(by_prompt(won(ours, theirs)), KEY).mean == pytest.approx(0.5)
