"""The classifier's reward on pictures drawn for the purpose."""

from random import Random

import numpy as np
import pytest
import torch

from experiments.tiny_model.draw import draw
from experiments.tiny_model.vocabulary import every_caption
from raypref.rewards.prompt_match import PromptMatch


@pytest.fixture(scope="module")
def reward() -> PromptMatch:
    return PromptMatch()


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, list[str]]:
    """48 new drawings [48 3 64 64] in [0, 1] and their captions."""
    captions = Random(5).sample(every_caption(), 48)
    pixels = np.stack([np.asarray(draw(caption, Random(f"test-{caption}"))) for caption in captions])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, [str(caption) for caption in captions]


def test_it_knows_drawings_it_never_saw(reward, drawn):
    accuracy = reward.accuracy(*drawn)
    assert set(accuracy) == {"colour", "animal", "place", "size"}
    for name in ("colour", "animal", "place"):
        assert accuracy[name].mean() >= 0.9, name


def test_the_right_caption_scores_above_another_pictures(reward, drawn):
    images, prompts = drawn
    right, wrong = reward.score(images, prompts), reward.score(images, prompts[1:] + prompts[:1])
    assert right.shape == (48,)
    assert right.dtype == torch.float32
    assert ((right >= 0) & (right <= 1)).all()
    assert (right > wrong).float().mean() >= 0.95


def test_the_score_is_the_mean_over_the_named_attributes(reward, drawn):
    images = drawn[0][:1]
    parts = [reward.score(images, [word]) for word in ("red", "fish", "sea")]
    torch.testing.assert_close(reward.score(images, ["A red fish, in the sea."]), torch.stack(parts).mean(0))


def test_accuracy_is_nan_where_the_prompt_is_silent(reward, drawn):
    accuracy = reward.accuracy(drawn[0][:2], ["a red thing", "a small fish"])
    assert accuracy["place"].isnan().all()
    assert accuracy["colour"].isnan().tolist() == [False, True]
    assert accuracy["size"].isnan().tolist() == [True, False]


def test_a_larger_copy_of_a_picture_scores_alike(reward, drawn):
    images, prompts = drawn[0][:4], drawn[1][:4]
    larger = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(reward.score(larger, prompts), reward.score(images, prompts), atol=0.15, rtol=0)


def test_gradients_reach_the_pixels(reward, drawn):
    images = drawn[0][:2].clone().requires_grad_()
    reward.score(images, ["a blue cat", "at night"]).sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()


def test_a_prompt_with_no_known_word_is_refused_with_the_words_it_knows(reward, drawn):
    with pytest.raises(ValueError, match=r"names no colour, animal, place or size.*butterfly"):
        reward.score(drawn[0][:1], ["a spaceship"])
