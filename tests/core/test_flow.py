"""The flow-matching step: diffusers' where it is deterministic, the marginals of rectified flow where it is not."""

import itertools
import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from raypref.core.process import DensityError, flow
from raypref.core.schedule import FlowSchedule


def rows(step: int, count: int) -> Tensor:
    return torch.full((count,), step)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_without_noise_every_step_is_diffusers(shift: float, steps: int):
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    theirs.set_timesteps(steps)
    ours = flow(FlowSchedule(1000, shift), steps, eta=0.0)
    torch.testing.assert_close(ours.t, theirs.timesteps.double(), rtol=1e-6, atol=1e-4)
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    for step in range(steps):
        velocity = torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
        wanted = theirs.step(velocity, theirs.timesteps[step], x_t).prev_sample
        found = ours.reverse(rows(step, 3), x_t, velocity).mean
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # diffusers keeps its sigmas in float32
        x_t = found


def test_the_first_step_with_full_noise_is_diffusers_stochastic_step():
    # At sigma = 1 nothing of x_t is kept, so drawing anew at the next level is the whole step for both.
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, stochastic_sampling=True)
    theirs.set_timesteps(10)
    ours = flow(FlowSchedule(), 10, eta=1.0)
    x_t, velocity = torch.randn(2, 40_000, 1, 1, 1, dtype=torch.float64)
    drawn = theirs.step(velocity, theirs.timesteps[0], x_t, generator=torch.Generator().manual_seed(0)).prev_sample
    gaussian = ours.reverse(rows(0, 40_000), x_t, velocity)
    noise = (drawn - gaussian.mean) / gaussian.std[:, None, None, None]
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)


def perfect_velocity(x_t: Tensor, sigma: float, spread: float) -> Tensor:
    """E[noise - x_0 | x_t] for x_0 ~ N(0, spread^2): what a perfect network predicts."""
    total = ((1 - sigma) * spread) ** 2 + sigma**2
    return (sigma - (1 - sigma) * spread**2) / total * x_t


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_marginals_are_those_of_the_forward_process(eta: float):
    # Everything is Gaussian with mean 0, so a variance recursion is exact: x_s = a x_t + sigma z.
    spread, steps = 0.7, 400
    process, sigmas = flow(FlowSchedule(shift=1.0), steps, eta), FlowSchedule(shift=1.0).sigmas(steps)
    variance = 1.0
    for step in range(steps):
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        out = perfect_velocity(one, float(sigmas[step]), spread)
        gaussian = process.reverse(rows(step, 1), one, out)
        variance = float(gaussian.mean.squeeze() ** 2 * variance + gaussian.std**2)
        level = float(sigmas[step + 1])
        assert variance == pytest.approx(((1 - level) * spread) ** 2 + level**2, rel=0.02), step


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_for_a_known_picture_marginals_are_exact_at_any_number_of_steps(eta: float):
    # With x_0 given, the perfect velocity is (x_t - x_0) / sigma, and every level must be N((1 - sigma) x_0, sigma^2).
    x_0, steps = 1.5, 5
    process, sigmas = flow(FlowSchedule(), steps, eta), FlowSchedule().sigmas(steps)
    mean, variance = 0.0, 1.0
    for step in range(steps):
        sigma = float(sigmas[step])

        def expected(x: float, step: int = step, sigma: float = sigma) -> float:
            x_t = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
            return float(process.reverse(rows(step, 1), x_t, (x_t - x_0) / sigma).mean)

        slope = expected(1.0) - expected(0.0)
        mean, variance = expected(mean), slope**2 * variance + float(process.sigma[step]) ** 2
        level = float(sigmas[step + 1])
        assert mean == pytest.approx((1 - level) * x_0, abs=1e-12)
        assert variance == pytest.approx(level**2, abs=1e-12)


def test_small_steps_agree_with_the_euler_maruyama_step_of_flow_grpo():
    # dx = (v + g^2 / (2 sigma) (x + (1 - sigma) v)) dt + g dw, with g^2 read off our own step's noise.
    steps = 4000
    schedule = FlowSchedule(shift=1.0, num_train_timesteps=10_000)
    process, sigmas = flow(schedule, steps, eta=1.0), schedule.sigmas(steps)
    x_t, velocity = torch.randn(2, 6, 1, 1, 1, dtype=torch.float64)
    for step in (400, 2000, 3200):
        sigma, dt = float(sigmas[step]), float(sigmas[step + 1] - sigmas[step])
        squared = float(process.sigma[step]) ** 2 / -dt
        drift = velocity + squared / (2 * sigma) * (x_t + (1 - sigma) * velocity)
        moved = process.reverse(rows(step, 6), x_t, velocity).mean - x_t
        torch.testing.assert_close(moved / dt, drift, rtol=5e-3, atol=5e-3)


def test_the_predicted_clean_latent_inverts_the_forward_process():
    process = flow(FlowSchedule(), 12, eta=1.0)
    sigmas = FlowSchedule().sigmas(12)
    x_0, noise = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    for step in range(12):
        x_t = (1 - sigmas[step]) * x_0 + sigmas[step] * noise
        torch.testing.assert_close(process.x_0(rows(step, 3), x_t, noise - x_0), x_0, rtol=1e-12, atol=1e-12)


def test_the_last_step_is_deterministic_and_says_so():
    process = flow(FlowSchedule(), 10, eta=1.0)
    with pytest.raises(DensityError, match=r"step 9 .* is deterministic"):
        process.check_density((0, 9))
    process.check_density(tuple(range(9)))


def test_more_steps_than_training_levels_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps = 1001: choose 1 to 1000"):
        FlowSchedule().sigmas(1001)


def test_noise_levels_fall_from_one_to_zero():
    sigmas = FlowSchedule().sigmas(20).tolist()
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0
    assert all(math.isfinite(a) and a > b for a, b in itertools.pairwise(sigmas))
