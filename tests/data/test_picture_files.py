"""Pictures that users bring."""

import io
import json

import pytest
import torch
from PIL import Image

from raypref.data.picture_files import list_edits, list_pictures
from raypref.data.pictures import read_picture


def png(width, height):
    """Red on the left, green in the middle square, blue on the right (or top, middle, bottom)."""
    picture = Image.new("RGB", (width, height), (0, 255, 0))
    short = min(width, height)
    picture.paste((255, 0, 0), (0, 0, *(((width - short) // 2, height) if width > height else (width, 0))))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def test_the_middle_square_is_taken_and_resized():
    green = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    assert torch.equal(read_picture(png(30, 10)), green.expand(3, 10, 10))
    small = read_picture(png(30, 10), 4)
    assert small.shape == (3, 4, 4)
    assert torch.equal(small[:, :, 1:3], green.expand(3, 4, 2))  # the rims have seen what was cut off
    assert read_picture(png(5, 9)).shape == (3, 5, 5)


def test_edits_are_pictures_and_prompts_with_paths_beside_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4, 4))
    file = tmp_path / "edits.jsonl"
    file.write_text('{"image": "a.png", "prompt": "a boat"}\n\n{"image": "a.png", "prompt": "a ship"}\n')
    assert list_edits(file) == [(tmp_path / "a.png", "a boat"), (tmp_path / "a.png", "a ship")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "it holds no edit"),
        ("{", "line 1: no JSON"),
        ('["a.png"]', "line 1: write"),
        ('{"image": "a.png", "prompt": ""}', "line 1: write"),
        (json.dumps({"image": "none.png", "prompt": "p"}), "none.png: not readable as a picture"),
        (json.dumps({"image": "broken.png", "prompt": "p"}), "broken.png: not readable as a picture"),
    ],
)
def test_what_is_no_edit_is_named(tmp_path, line, problem):
    (tmp_path / "a.png").write_bytes(png(4, 4))
    (tmp_path / "broken.png").write_bytes(png(4, 4)[:40])
    file = tmp_path / "edits.jsonl"
    file.write_text(line)
    with pytest.raises(ValueError, match=problem):
        list_edits(file)


def test_a_folders_pictures_come_by_name_and_other_files_do_not(tmp_path):
    for name in ("b.png", "a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(png(4, 4))
    assert [file.name for file in list_pictures(tmp_path)] == ["a.PNG", "b.png"]
    with pytest.raises(ValueError, match="no such folder"):
        list_pictures(tmp_path / "nowhere")
