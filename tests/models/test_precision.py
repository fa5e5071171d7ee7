"""Gradients pass a float16 network whatever their size."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raypref.models.base import ModelConfig
from raypref.models.precision import HalfPrecision
from raypref.models.stable_diffusion import StableDiffusion
from raypref.train.build import build_learner
from raypref.train.chunk import rollout_chunks
from raypref.train.runtime import LocalRuntime
from tests.conftest import MakeExperiment

SIZES = [1e-30, 1e-12, 1.0, 1e9]


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).double().norm() / wanted.double().norm())


def gradients(folder: Path, dtype: str, size: float) -> tuple[Tensor, Tensor]:
    """Of `size` times a mean, in the latents and in a stirred adapter."""
    denoiser = StableDiffusion.denoiser(ModelConfig(path=str(folder), device="cpu", dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        denoiser.parameters.flat.add_(torch.randn(denoiser.parameters.flat.shape, generator=generator), alpha=0.05)
    x_t = torch.randn(2, *denoiser.latent_shape, generator=generator).requires_grad_()
    out = denoiser.predict(x_t, torch.tensor([500, 20]), ("a cat", "a dog"), 5.0)
    (size * out.square().mean()).backward()
    return x_t.grad, torch.cat([p.grad.flatten() for p in denoiser.parameters.parameters.values()])


@pytest.fixture(scope="module")
def exact(random_model: Path) -> tuple[Tensor, Tensor]:
    return gradients(random_model, "float32", 1.0)


@pytest.mark.parametrize("size", SIZES)
def test_through_the_network_to_latents_and_adapter(random_model: Path, exact: tuple[Tensor, Tensor], size: float):
    for found, wanted in zip(gradients(random_model, "float16", size), exact, strict=True):
        assert found.dtype == torch.float32
        assert relative(found.double() / size, wanted) < 2e-2


@pytest.mark.parametrize("size", SIZES)
def test_through_the_decoder(random_model: Path, size: float):
    found = []
    for dtype in ("float32", "float16"):
        decoder = StableDiffusion.decoder(ModelConfig(path=str(random_model), device="cpu", dtype=dtype))
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        factor = size if dtype == "float16" else 1.0
        (factor * decoder.decode(latents).square().mean()).backward()
        found.append(latents.grad.double() / factor)
    assert relative(found[1], found[0]) < 5e-2


@pytest.mark.parametrize(("size", "sent"), [(1.0, 16.0), (3.0, 12.0), (3e-9, 3e-9 * 2**32), (1e6, 1e6 / 2**16)])
def test_the_scale_is_a_power_of_two(size: float, sent: float):
    """So it costs no digit."""
    half = HalfPrecision(())
    assert float(half.scaled(torch.tensor([size, -size / 2]))[0]) == pytest.approx(sent, rel=1e-7)
    assert float(half.scaled(torch.tensor([size]))[0] / half.scale) == torch.tensor(size).item()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_none_and_costs_nobody_else(bad: float):
    half = HalfPrecision(())
    back = half.scaled_back(half.scaled(torch.tensor([[bad, 1.0], [1e-9, 3.0]])))
    assert back.isfinite().tolist() == [[False, True], [True, True]]
    assert torch.equal(back[1], torch.tensor([1e-9, 3.0]))
    for nothing in (torch.zeros(3), torch.full((3,), bad)):
        assert torch.equal(half.scaled_back(half.scaled(nothing)).isfinite(), nothing.isfinite())


def test_a_learner_has_the_gradient_of_float32(make_experiment: MakeExperiment):
    plain = make_experiment()
    half = replace(plain, model=replace(plain.model, dtype="float16"))
    runtime = LocalRuntime(plain)
    first = runtime.learner.weights(0)
    sampled = [runtime.sampler.rollout(chunk, first) for chunk in rollout_chunks(plain, 0)]
    found, wanted = (build_learner(each).update(0, sampled) for each in (half, plain))
    assert found.metrics["grad_norm"] == pytest.approx(wanted.metrics["grad_norm"], rel=1e-2)
    assert found.metrics["grad_norm"] != wanted.metrics["grad_norm"]
    assert found.alarms == {}
