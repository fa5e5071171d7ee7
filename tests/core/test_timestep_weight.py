"""The weight over time against its definition in plain numbers."""

import pytest
import torch

from raypref.core.timestep_weight import timestep_weight

TRAINED = torch.tensor([951, 751, 551, 351, 151])


@pytest.mark.parametrize("power", [-2.0, -0.5, 0.3, 1.0, 3.0])
def test_it_agrees_with_plain_numbers(power: float):
    t = torch.tensor([151, 951, 151])
    level = sum(((time + 1) / 1000) ** power for time in TRAINED.tolist()) / 5
    wanted = [((time + 1) / 1000) ** power / level for time in t.tolist()]
    assert timestep_weight(t, TRAINED, 1000, power).tolist() == pytest.approx(wanted, rel=1e-5)


def test_golden():
    # power 1 over the times 0 and 2: (1, 3) / 2.
    assert timestep_weight(torch.tensor([0, 2]), torch.tensor([0, 2]), 1000, 1.0).tolist() == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize("power", [-2.0, -0.5, 0.0, 1.0, 3.0])
def test_its_mean_over_the_trained_times_is_one(power: float):
    assert float(timestep_weight(TRAINED, TRAINED, 1000, power).mean()) == pytest.approx(1.0, rel=1e-6)


def test_power_zero_is_exactly_one():
    assert timestep_weight(torch.tensor([0, 1, 999]), TRAINED, 1000, 0.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("power", "direction"), [(1.5, 1), (-1.5, -1)])
def test_positive_powers_favour_noisy_times_and_negative_ones_clean_times(power: float, direction: int):
    weight = timestep_weight(torch.arange(0, 1000, 50), TRAINED, 1000, power)
    assert bool((direction * weight.diff() > 0).all())
    assert bool((weight > 0).all())
