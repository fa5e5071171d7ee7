"""Colourfulness against the paper's formula in numpy, on 0..255."""

import numpy as np
import pytest
import torch

from raypref.rewards.colorfulness import Colorfulness


def hasler_suesstrunk(image: np.ndarray) -> float:
    """M3 of an [H W 3] picture with values in 0..255, as the paper writes it (sigma and mu of the opponent axes)."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    rg, yb = red - green, 0.5 * (red + green) - blue
    sigma = np.sqrt(np.std(rg) ** 2 + np.std(yb) ** 2)
    mu = np.sqrt(np.mean(rg) ** 2 + np.mean(yb) ** 2)
    return float(sigma + 0.3 * mu)


def score(images: torch.Tensor) -> torch.Tensor:
    return Colorfulness().score(images, ["a"] * len(images))


def random_images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 7, 5, generator=torch.Generator().manual_seed(0))


def test_it_is_the_papers_metric_over_255():
    images = random_images()
    wanted = [hasler_suesstrunk(255.0 * image.permute(1, 2, 0).double().numpy()) / 255 for image in images]
    found = score(images)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_two_flat_halves_by_hand():
    # Left red, right blue: rg = 1, 0 (mean 1/2, var 1/4); yb = 1/2, -1 (mean -1/4, var 9/16);
    # sqrt(13 / 16) + 0.3 sqrt(1/4 + 1/16) = 0.901388 + 0.3 * 0.559017 = 1.069093
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0, :, 0] = 1
    image[0, 2, :, 1] = 1
    assert float(score(image)) == pytest.approx(1.069093, abs=2e-6)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_grey_scores_exactly_zero(level: float):
    assert float(score(torch.full((1, 3, 4, 4), level))) == 0.0
    assert float(score(torch.rand(1, 1, 4, 4).expand(1, 3, 4, 4))) == 0.0


@pytest.mark.parametrize("kind", ["grey", "flat colour", "random"])
def test_gradients_are_finite(kind: str):
    image = {
        "grey": torch.full((1, 3, 4, 4), 0.5),
        "flat colour": torch.tensor([0.9, 0.2, 0.1]).reshape(1, 3, 1, 1).repeat(1, 1, 4, 4),
        "random": random_images(1),
    }[kind].requires_grad_()
    (slope,) = torch.autograd.grad(score(image).sum(), image)
    assert bool(slope.isfinite().all())


def test_gradients_agree_with_finite_differences():
    images = random_images(2).double()[:, :, :3, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Colorfulness().score(x, ["a", "b"]), (images,), eps=1e-6, atol=1e-7)


def test_pictures_of_a_batch_do_not_see_each_other():
    images = random_images()
    assert torch.equal(score(images), torch.cat([score(image[None]) for image in images]))
