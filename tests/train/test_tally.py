"""Means of metrics over an iteration and by step, by hand."""

import math

import pytest
import torch

from raypref.train.tally import Tally


def test_means_are_over_rows_and_not_over_batches():
    tally = Tally()
    tally.add(torch.tensor([0, 4, 4]), {"loss": torch.tensor([1.0, 2.0, 3.0])})
    tally.add(torch.tensor([4]), {"loss": torch.tensor([7.0])})
    assert tally.means() == {"loss": pytest.approx(13 / 4)}
    assert tally.means_by_step() == {"loss": {0: 1.0, 4: pytest.approx(4.0)}}


def test_what_does_not_apply_does_not_count():
    tally = Tally()
    nothing = torch.full((3,), torch.nan)
    tally.add(torch.tensor([8, 2, 2]), {"rho": torch.tensor([torch.nan, 1.0, torch.nan]), "none": nothing})
    means = tally.means()
    assert means["rho"] == 1.0
    assert math.isnan(means["none"])
    assert tally.means_by_step() == {"rho": {2: 1.0}, "none": {}}


def test_steps_come_in_order():
    tally = Tally()
    for step in (16, 0, 8):
        tally.add(torch.tensor([step]), {"loss": torch.tensor([float(step)])})
    assert list(tally.means_by_step()["loss"]) == [0, 8, 16]


def test_nothing_has_no_mean():
    assert Tally().means() == {}
