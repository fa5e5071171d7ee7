"""The figures of an evaluation, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from raypref.evaluate.heldout import diversity, evaluate, form_diversity, pictures
from raypref.run_directory import picture_grid
from raypref.train.scorer import Judgement


def judgement(prompts, grey, scores, right):
    images = torch.tensor(grey, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 3, 3).contiguous()
    return Judgement(prompts, images, {"reward": torch.tensor(scores)}, {"colour": torch.tensor(right)})


def test_means_errors_and_shares():
    parts = [
        judgement(("a", "a", "b"), [0, 51, 0], [1.0, 3.0, 4.0], [1.0, 0.0, 1.0]),
        judgement(("b",), [102], [8.0], [torch.nan]),
    ]
    found = evaluate(5, parts, images_per_prompt=2)
    # prompt means 2 and 6: mean 4, standard deviation sqrt(8), standard error sqrt(8 / 2) = 2
    assert found.rewards["reward"].mean == pytest.approx(4.0)
    assert found.rewards["reward"].standard_error == pytest.approx(2.0)
    assert found.accuracy["colour"] == pytest.approx(2 / 3)  # the unasked one does not count
    # |0 - 51| / 255 = 0.2 and |0 - 102| / 255 = 0.4
    assert found.diversity == pytest.approx(0.3)
    assert (found.prompts, found.images_per_prompt, found.iteration) == (2, 2, 5)


def test_diversity_is_zero_for_copies_and_counts_every_pair():
    same = torch.full((2, 3, 4, 4, 3), 7, dtype=torch.uint8)
    assert diversity(same) == 0.0
    one_differs = same.clone()
    one_differs[:, 0] = 7 + 51  # pairs 01 and 02 differ by 0.2, pair 12 by 0
    assert diversity(one_differs) == pytest.approx(0.2 * 2 / 3)


def test_diversity_of_form_is_blind_to_colour_and_contrast():
    grey = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4, 1).expand(1, 2, 4, 4, 3).clone()
    grey[:, 1] = grey[:, 1].flip(1)
    stronger = grey * 3 + 20
    tinted = grey.clone()
    tinted[..., 0] += 30
    assert diversity(stronger) > 2 * diversity(grey)
    assert form_diversity(stronger) == pytest.approx(form_diversity(grey), rel=1e-4)
    assert form_diversity(tinted) == pytest.approx(form_diversity(grey), rel=1e-4)
    assert form_diversity(grey[:, :1].expand(-1, 2, -1, -1, -1)) == 0.0


def test_a_missing_score_is_not_a_low_one():
    parts = [judgement(("a", "a"), [0, 0], [torch.nan, 3.0], [1.0, 1.0])]
    assert evaluate(0, parts, images_per_prompt=2).rewards["reward"].mean == pytest.approx(3.0)


def test_the_error_of_one_prompt_is_unknown_and_not_0():
    found = evaluate(0, [judgement(("a", "a"), [0, 0], [1.0, 3.0], [1.0, 1.0])], images_per_prompt=2)
    assert found.rewards["reward"].mean == pytest.approx(2.0)
    assert math.isnan(found.rewards["reward"].standard_error)
    assert str(found.rewards["reward"]) == "2.0000"
    two = evaluate(0, [judgement(("a", "b"), [0, 0], [1.0, 3.0], [1.0, 1.0])], images_per_prompt=1)
    assert str(two.rewards["reward"]) == "2.0000 ± 1.0000"


def test_two_decoders_are_compared_among_candidates_of_one_parent():
    # Rows are pictures, columns candidates: of the six pairs one is tied and one the other way round.
    twice = [torch.tensor([[[1.0, 2.0, 3.0]], [[2.0, 2.0, 9.0]]]), torch.tensor([[[5.0, 4.0, 1.0]], [[6.0, 7.0, 0.0]]])]
    parts = [
        replace(judgement((name,), [0], [1.0], [1.0]), decoded_twice={4: scores})
        for name, scores in zip("aa", twice, strict=True)
    ]
    found = evaluate(0, parts, images_per_prompt=2)
    assert found.tiny_pairs_by_step == {"4": 5}
    assert found.tiny_tau_by_step == {"4": pytest.approx((4 - 1) / 5)}


def test_the_grid_has_a_row_a_prompt():
    parts = [judgement(("a", "a", "b", "b"), [10, 20, 30, 40], [0.0] * 4, [1.0] * 4)]
    grid = picture_grid(pictures(parts, 2))
    assert grid.size == (2 * 3, 2 * 2)
    assert [grid.getpixel(place)[0] for place in ((0, 0), (3, 0), (0, 2), (3, 2))] == [10, 20, 30, 40]
