"""How much of a picture is burnt out."""

import pytest
import torch

from raypref.core.pictures import saturation


def test_saturation_is_the_share_of_values_at_either_end():
    images = torch.full((2, 2, 2, 3), 100, dtype=torch.uint8)
    assert saturation(images) == 0.0
    images[0, 0, 0] = torch.tensor([0, 255, 1], dtype=torch.uint8)
    images[1, 1, 1, 2] = 254
    assert saturation(images) == pytest.approx(2 / 24)
    images[1] = 255
    assert saturation(images) == pytest.approx(14 / 24)
    assert saturation(torch.zeros(3, 2, 4, 4, 3, dtype=torch.uint8)) == 1.0
