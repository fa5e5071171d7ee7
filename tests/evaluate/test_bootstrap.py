"""Means over prompts and how sure they are, against closed forms and invariances."""

import math
from statistics import NormalDist

import pytest
import torch

from raypref.core.seeding import Key
from raypref.evaluate.bootstrap import RESAMPLES, by_prompt, measured, resamples, share, tied, won

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


def test_a_share_near_its_end_has_wilsons_interval():
    # z = 1.959964: of 12 in 12 it begins at 12 / (12 + z^2)
    found = share(torch.ones(12), KEY)
    assert (found.mean, found.standard_error, found.n) == (1.0, 0.0, 12)
    assert (found.low, found.high) == (pytest.approx(12 / (12 + 1.959964**2)), 1.0)
    none = share(torch.zeros(12), KEY)
    assert (none.low, none.high) == pytest.approx((1 - found.high, 1 - found.low))
    # Of ten with one loss, by its textbook formula (Wilson 1927): 0.5958 to 0.9821.
    assert share(torch.tensor([1.0] * 9 + [0.0]), KEY).low == pytest.approx(0.5958, abs=1e-4)
    assert share(torch.tensor([1.0] * 9 + [0.0]), KEY).high == pytest.approx(0.9821, abs=1e-4)


def test_wilsons_interval_holds_the_share_that_draws_come_from():
    # Where resampling holds it far less often than it says: one loss in fourteen is expected, and often there is none.
    rate, wilsons, plain, draws = 0.93, 0, 0, 200
    for trial in range(draws):
        values = (Key(trial)("draws").normal(14) < NormalDist().inv_cdf(rate)).float()
        wilsons += share(values, KEY).low <= rate <= share(values, KEY).high
        plain += measured(values, KEY).low <= rate <= measured(values, KEY).high
    assert plain / draws < 0.75
    assert wilsons / draws > 0.9


def test_a_share_that_all_prompts_have_is_not_certain_and_one_in_the_middle_is_resampled():
    same = share(torch.full((40,), 0.5), KEY)
    assert 0.3 < same.low < 0.5 < same.high < 0.7
    values = torch.tensor([1.0] * 24 + [0.0] * 16)
    assert share(values, KEY) == measured(values, KEY)


def test_nothing_is_sure_of_one_prompt():
    for figure in (share(torch.ones(1), KEY), measured(torch.ones(1), KEY)):
        assert (figure.mean, figure.n) == (1.0, 1)
        assert math.isnan(figure.low)
        assert math.isnan(figure.high)
        assert str(figure) == "1"
    assert str(share(torch.ones(12), KEY)) == "1 ± 0 [0.7575, 1]"


def test_pictures_of_a_prompt_count_as_one_draw():
    scores = torch.tensor([[1.0, 3.0], [torch.nan, 5.0], [torch.nan, torch.nan]])
    torch.testing.assert_close(
        by_prompt(scores), torch.tensor([2.0, 5.0, torch.nan], dtype=torch.float64), equal_nan=True
    )


def test_ties_count_half_and_missing_scores_do_not_count():
    ours, theirs = torch.tensor([2.0, 1.0, 1.0, torch.nan, 1.0]), torch.tensor([1.0, 2.0, 1.0, 1.0, torch.nan])
    ours, theirs, unknown = ours[None], theirs[None], torch.nan
    for found, wanted in (
        (won(ours, theirs), [1.0, 0.0, 0.5, unknown, unknown]),
        (tied(ours, theirs), [0.0, 0.0, 1.0, unknown, unknown]),
        (won(ours, theirs) + won(theirs, ours), [1.0, 1.0, 1.0, unknown, unknown]),
    ):
        torch.testing.assert_close(found, torch.tensor([wanted]), equal_nan=True)
    assert measured(by_prompt(won(ours, theirs)), KEY).mean == pytest.approx(0.5)
