"""The real loading and scoring path on a random CLIP tower of the real class."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from raypref.core.seeding import Key
from raypref.rewards.aesthetic import Aesthetic
from raypref.rewards.linear_head import LAYERS
from raypref.rewards.pixels import clip_pixels
from tests.rewards.tiny import AESTHETIC_WIDTHS, clip_config, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("aesthetic")
    save("aesthetic", path)
    return path


@pytest.fixture(scope="module")
def reward(folder):
    return Aesthetic(str(folder / "clip"), str(folder / "head.pth"), device="cpu")


def pictures(height=40, width=60):
    noise = Key(3).normal(2, 3, height, width).sigmoid()
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)


def test_the_score_is_the_layered_head_on_the_normalised_embedding(reward, folder):
    images = pictures()
    embedding = reward.tower(pixel_values=clip_pixels(images, 28)).image_embeds.double().numpy()
    value = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    state = torch.load(folder / "head.pth", weights_only=True)
    for layer in LAYERS:
        value = value @ state[f"layers.{layer}.weight"].double().numpy().T + state[f"layers.{layer}.bias"].numpy()
    assert np.allclose(reward.score(images, ["", ""]).numpy(), value[:, 0], atol=1e-4)


def test_the_tower_is_the_picture_s_half_of_a_whole_clip_as_published(folder, tmp_path):
    config = clip_config()
    config.vision_config.projection_dim = config.projection_dim = AESTHETIC_WIDTHS[0]
    torch.manual_seed(1)
    clip = CLIPModel(config).eval()
    clip.save_pretrained(tmp_path)
    reward, images = Aesthetic(str(tmp_path), str(folder / "head.pth"), device="cpu"), pictures()
    pooled = clip.vision_model(pixel_values=clip_pixels(images, 32))[1]
    features = torch.nn.functional.normalize(clip.visual_projection(pooled), dim=-1)
    torch.testing.assert_close(reward.score(images, ["", ""]), reward.head(features), atol=1e-5, rtol=0)


def test_gradients_reach_the_picture(reward):
    images = pictures().requires_grad_()
    reward.score(images, ["", ""]).sum().backward()
    assert float(images.grad.abs().sum()) > 0


def test_a_wrong_head_is_refused(folder, tmp_path):
    torch.save({"layers.0.weight": torch.zeros(1, 12)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"reward\.head: its head's keys are"):
        Aesthetic(str(folder / "clip"), str(tmp_path / "wrong.pth"), device="cpu")


def test_a_missing_head_says_what_to_do(folder):
    with pytest.raises(OSError, match=r"reward\.head = 'nowhere\.pth': no such file; name a local file"):
        Aesthetic(str(folder / "clip"), "nowhere.pth", device="cpu")
