"""What was drawn for questions lies on the disk: whole, found again, and only where nothing has changed."""

import pytest
import torch

from raypref.kept import Kept, fingerprints
from raypref.train.scorer import Judgement
from raypref.train.stopped import StoppedRun

PROMPTS = ("a", "a", "b")


def judgement(failures=None, kl=False):
    images = torch.arange(3 * 4 * 2 * 3).reshape(3, 4, 2, 3).to(torch.uint8)
    scores = {"z": torch.tensor([1.0, torch.nan, 3.0]), "a": torch.tensor([4.0, 5.0, 6.0])}
    drift = torch.tensor([[0.1, torch.nan]] * 3) if kl else None
    return Judgement(PROMPTS, images, scores, {}, failures or {}, kl=drift)


def test_a_chunk_comes_back_as_it_was_its_pictures_where_they_were_wanted(tmp_path):
    kept, drawn = Kept(tmp_path), judgement({"z timed out": 1}, kl=True)
    shelf = kept.shelf({"policy": "x"})
    kept.put(shelf, 0, drawn, pictures=True)
    kept.put(shelf, 1, judgement(), pictures=False)
    first, second = kept.chunks(shelf, [PROMPTS, PROMPTS], pictures=False)
    assert list(first.scores) == ["z", "a"]  # the training reward comes first
    torch.testing.assert_close(first.scores, drawn.scores, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(first.kl, drawn.kl, equal_nan=True, rtol=0, atol=0)
    assert (first.prompts, first.failures) == (PROMPTS, {"z timed out": 1})
    assert first.images.numel() == second.images.numel() == 0
    assert second.kl is None
    (whole,) = kept.chunks(shelf, [PROMPTS], pictures=True)
    assert torch.equal(whole.images, drawn.images)


def test_what_is_not_there_or_torn_or_without_its_pictures_is_lacking(tmp_path):
    kept = Kept(tmp_path)
    shelf = kept.shelf({"policy": "x"})
    assert kept.lacks(shelf, 0, pictures=False)
    kept.put(shelf, 0, judgement(), pictures=False)
    assert not kept.lacks(shelf, 0, pictures=False)
    assert kept.lacks(shelf, 0, pictures=True)
    kept.put(shelf, 0, judgement(), pictures=True)
    assert not kept.lacks(shelf, 0, pictures=True)
    assert not kept.lacks(shelf, 0, pictures=False)
    (file,) = shelf.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert kept.lacks(shelf, 0, pictures=False)
    assert Kept(tmp_path).shelf({"policy": "y"}) != shelf
    assert Kept(tmp_path).shelf({"policy": "x"}) == shelf


def test_missing_scores_are_asked_for_again_but_not_by_who_has_just_asked(tmp_path):
    kept = Kept(tmp_path)
    shelf = kept.shelf({})
    kept.put(shelf, 0, judgement({"z timed out": 1}), pictures=False)
    assert not kept.lacks(shelf, 0, pictures=False)
    assert Kept(tmp_path).lacks(shelf, 0, pictures=False)


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoppedRun, match=r"file.*Make room or make it writable, and ask again"):
        Kept(tmp_path / "file").shelf({})


def test_a_change_of_a_file_that_settings_name_is_seen(tmp_path):
    (tmp_path / "model" / "unet").mkdir(parents=True)
    code, weights = tmp_path / "mine.py", tmp_path / "model" / "unet" / "weights"
    code.write_text("one")
    weights.write_text("one")
    settings = [{"path": str(tmp_path / "model"), "rank": 8, "vae": ""}, {"function": {"path": f"{code}:score"}}]
    first = fingerprints(settings)
    assert set(first) == {str(tmp_path / "model"), str(code)}
    assert fingerprints(settings) == first
    code.write_text("other")
    second = fingerprints(settings)
    assert second[str(code)] != first[str(code)]
    weights.write_text("other")
    assert fingerprints(settings)[str(tmp_path / "model")] != second[str(tmp_path / "model")]
