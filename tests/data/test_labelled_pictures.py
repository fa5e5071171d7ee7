"""Pictures arrive upright, cropped in the middle, in [0, 1]."""

import io

import numpy as np
import pytest
from PIL import Image

from raypref.data.pictures import Unreadable, read_picture
from tests.data.labelled import picture


def encoded(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", **options)
    return file.getvalue()


def test_the_middle_is_cut_out_and_nothing_else_is_done_to_a_picture_of_the_right_size():
    values = np.random.default_rng(0).integers(0, 256, (8, 14, 3), dtype=np.uint8)
    found = read_picture(encoded(values), 8)
    assert np.array_equal((found.permute(1, 2, 0) * 255).round().numpy(), values[:, 3:11])


def test_the_shorter_side_is_resized():
    values = np.zeros((32, 64, 3), np.uint8)
    values[:, :32] = 255
    found = read_picture(encoded(values), 16)
    assert found.shape == (3, 16, 16)
    assert found[:, :, :7].min() > 0.99  # white on the left half, to the middle
    assert found[:, :, 9:].max() < 0.01


def test_other_modes_become_rgb_and_cameras_are_turned_upright():
    grey = np.full((8, 8), 77, np.uint8)
    assert (read_picture(encoded(grey), 8) * 255).round().unique().tolist() == [77]
    tall = np.zeros((8, 16, 3), np.uint8)
    tall[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: left becomes top
    found = read_picture(encoded(tall, exif=exif), 8)
    assert found[:, 0].min() == 1
    assert found[:, -1].max() == 0


@pytest.mark.parametrize("content", [None, b""])
def test_a_missing_picture_is_missing(content):
    with pytest.raises(Unreadable, match="is missing"):
        read_picture(content, 8)


@pytest.mark.parametrize("content", [b"no picture", picture(0)[:200], b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"x" * 100])
def test_a_broken_picture_is_unreadable(content):
    with pytest.raises(Unreadable, match="is not readable"):
        read_picture(content, 8)
