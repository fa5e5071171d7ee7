"""The moving average is diffusers' own."""

import pytest
import torch
from diffusers.training_utils import EMAModel

from raypref.core.moving_average import follow


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_it_is_the_average_of_the_library_at_every_update(decay: float):
    policies = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(policies[0].clone())
    library, average = EMAModel([parameter], decay=decay), policies[0].clone()
    for update, policy in enumerate(policies[1:], 1):
        parameter.data.copy_(policy)
        library.step([parameter])
        average = follow(average, policy, update, decay)
        torch.testing.assert_close(average, library.shadow_params[0], rtol=0, atol=1e-12)


def test_after_long_each_policy_counts_by_its_age():
    """By hand: from some update on, weights are (1 - d) d^age."""
    average = torch.zeros(1, dtype=torch.float64)
    for update in range(100, 104):
        average = follow(average, torch.tensor([float(update)], dtype=torch.float64), update, 0.5)
    assert float(average) == 103 / 2 + 102 / 4 + 101 / 8 + 100 / 16
