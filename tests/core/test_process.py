"""The table of the reverse process against diffusers, closed forms, and torch.distributions, all in float64."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from raypref.core.process import DensityError, Gaussian, Process, ddim, ddpm
from tests.toys import sd_alphas_cumprod, sd_schedule

SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction")
SHAPE = (1, 2, 2, 2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(scheduler: DDIMScheduler | DDPMScheduler, count: int) -> DDIMScheduler | DDPMScheduler:
    """A diffusers scheduler that computes in float64."""
    scheduler.alphas_cumprod = sd_alphas_cumprod()
    if isinstance(scheduler, DDIMScheduler):
        one = torch.tensor(1.0, dtype=torch.float64)
        scheduler.final_alpha_cumprod = one if scheduler.config.set_alpha_to_one else scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(count)
    return scheduler


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("to_one", [False, True])
def test_ddim_equals_diffusers_step_by_step(eta: float, prediction: str, spacing: str, to_one: bool):
    settings = {"prediction_type": prediction, "timestep_spacing": spacing, "steps_offset": 1}
    scheduler = exact(DDIMScheduler(clip_sample=False, set_alpha_to_one=to_one, **settings), 20)
    final = 1.0 if to_one else float(sd_alphas_cumprod()[0])
    process = ddim(sd_schedule(final_alpha_cumprod=final, **settings), 20, eta)
    x_t, out, noise = random(*SHAPE, seed=1), random(*SHAPE, seed=2), torch.ones(SHAPE, dtype=torch.float64)
    assert process.t.tolist() == scheduler.timesteps.tolist()
    for index, t in enumerate(scheduler.timesteps):
        step = torch.tensor([index])
        quiet = scheduler.step(out, t, x_t, eta=eta, variance_noise=0 * noise)
        moved = scheduler.step(out, t, x_t, eta=eta, variance_noise=noise).prev_sample
        gaussian = process.reverse(step, x_t, out)
        close(gaussian.mean, quiet.prev_sample)
        close(gaussian.std.expand(SHAPE), moved - quiet.prev_sample)
        close(gaussian.sample(noise), moved)
        close(process.x_0(step, x_t, out), quiet.pred_original_sample)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("count", [20, 50])
def test_ddpm_equals_diffusers_step_by_step(prediction: str, count: int):
    settings = {"prediction_type": prediction, "timestep_spacing": "leading", "steps_offset": 1}
    scheduler = exact(DDPMScheduler(clip_sample=False, variance_type="fixed_small", **settings), count)
    process = ddpm(sd_schedule(**settings), count)
    x_t, out = random(*SHAPE, seed=1), random(*SHAPE, seed=2)

    def drawn(t: Tensor, seed: int) -> tuple[SimpleNamespace, Tensor]:
        step = scheduler.step(out, t, x_t, generator=torch.Generator().manual_seed(seed))
        return step, random(*SHAPE, seed=seed)

    for index, t in enumerate(scheduler.timesteps):
        step = torch.tensor([index])
        # Two draws with known noise tell mean and std apart.
        (one, noise_one), (two, noise_two) = drawn(t, 3), drawn(t, 4)
        std = (one.prev_sample - two.prev_sample) / (noise_one - noise_two)
        gaussian = process.reverse(step, x_t, out)
        last = index == count - 1  # diffusers keeps std = 1e-10 there, we have 0
        close(gaussian.std.expand(SHAPE), std, 1e-9 if last else 1e-12)
        close(gaussian.mean, one.prev_sample - std * noise_one, 1e-9 if last else 1e-12)
        close(process.x_0(step, x_t, out), one.pred_original_sample)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_with_full_noise_is_ddpm_but_for_the_last_step(prediction: str):
    schedule = sd_schedule(prediction_type=prediction)
    one, two = ddim(schedule, 20, 1.0), ddpm(schedule, 20)
    for name in ("mean_state", "mean_out", "sigma"):
        found, wanted = getattr(one, name), getattr(two, name)
        close(found[:-1], wanted[:-1])
    assert float(one.sigma[-1]) > 0.02
    assert float(two.sigma[-1]) == 0


def test_the_table_of_stable_diffusion_is_the_published_one():
    # Known for SD 1.5, T = 20, eta = 1, to four digits; steps t = 951, 151, 51, 1.
    process = ddim(sd_schedule(), 20, 1.0)
    rows = [0, 16, 18, 19]
    assert process.t[rows].tolist() == [951, 151, 51, 1]
    close(process.mean_state[rows], torch.tensor([1.3105, 1.0395, 1.0248, 1.0004]).double(), 6e-5)
    close(process.mean_out[rows], torch.tensor([-0.5496, -0.1860, -0.2205, -0.0207]).double(), 6e-5)
    close(process.sigma[rows], torch.tensor([0.6444, 0.2144, 0.0406, 0.0207]).double(), 6e-5)


def perfect_out(prediction: str, alpha_bar: float, x_0: float) -> tuple[float, float]:
    """(slope, offset): the output of a network that knows x_0, as an affine function of x_t."""
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction == "epsilon":
        return 1 / noise, -signal * x_0 / noise
    # v = signal eps - noise x_0 with eps = (x_t - signal x_0) / noise
    return signal / noise, -signal * signal * x_0 / noise - noise * x_0


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kernel", ["eta 0", "eta 0.5", "eta 1", "ddpm"])
def test_a_perfect_network_keeps_the_marginals(prediction: str, kernel: str):
    # x_t | x_0 ~ N(sqrt(abar) x_0, 1 - abar) at the start; mean and variance go through affine steps exactly, and must
    # be those of the schedule after each of them. (Data of any distribution follows by averaging over x_0.)
    schedule = sd_schedule(prediction_type=prediction)
    process = ddpm(schedule, 20) if kernel == "ddpm" else ddim(schedule, 20, float(kernel.split()[1]))
    alpha_bar = [float(sd_alphas_cumprod()[t]) for t in range(951, 0, -50)]
    final = 1.0 if kernel == "ddpm" else float(sd_alphas_cumprod()[0])
    x_0 = 1.7
    mean, variance = math.sqrt(alpha_bar[0]) * x_0, 1 - alpha_bar[0]
    for index, (now, after) in enumerate(itertools.pairwise([*alpha_bar, final])):
        slope, offset = perfect_out(prediction, now, x_0)
        gain = float(process.mean_state[index]) + slope * float(process.mean_out[index])
        mean = gain * mean + float(process.mean_out[index]) * offset
        variance = gain**2 * variance + float(process.sigma[index]) ** 2
        assert mean == pytest.approx(math.sqrt(after) * x_0, rel=1e-10)
        assert variance == pytest.approx(1 - after, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_best_guess_of_the_noise_samples_gaussian_data(eta: float):
    # Data N(m, s^2): the posterior-mean network is affine, so 1000 steps end at N(m, s^2) but for discretisation.
    m, s = 0.8, 0.6
    schedule = sd_schedule(steps_offset=0)
    process = ddim(schedule, 1000, eta)
    mean, variance = 0.0, 1.0
    for index, t in enumerate(range(999, -1, -1)):
        abar = float(sd_alphas_cumprod()[t])
        slope = math.sqrt(1 - abar) / (abar * s**2 + 1 - abar)
        gain = float(process.mean_state[index]) + slope * float(process.mean_out[index])
        mean = gain * mean - float(process.mean_out[index]) * slope * math.sqrt(abar) * m
        variance = gain**2 * variance + float(process.sigma[index]) ** 2
    assert mean == pytest.approx(m, rel=0.06)  # x_T = N(0, 1) forgets sqrt(abar_T) m = 0.07 m
    assert math.sqrt(variance) == pytest.approx(s, rel=0.02)


def pair(seed: int = 0, drift: float = 0.3) -> tuple[Gaussian, Gaussian, Tensor]:
    """Policy and reference [1 B C H W], and two children each [2 B C H W]."""
    std = torch.tensor([0.2, 0.6, 1.5], dtype=torch.float64)
    mean = random(1, 3, 2, 2, 2, seed=seed)
    other = mean + drift * random(1, 3, 2, 2, 2, seed=seed + 1)
    children = mean + std[:, None, None, None] * random(2, 3, 2, 2, 2, seed=seed + 2)
    return Gaussian(mean, std), Gaussian(other, std), children


def oracle_log_prob(gaussian: Gaussian, x_s: Tensor, reduce: str) -> Tensor:
    terms = Normal(gaussian.mean, gaussian.std.reshape(-1, 1, 1, 1)).log_prob(x_s)
    return getattr(terms, reduce)((-3, -2, -1))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_log_prob_is_the_normal_density(reduce: str):
    gaussian, _, x_s = pair()
    close(gaussian.log_prob(x_s, reduce), oracle_log_prob(gaussian, x_s, reduce))


def test_log_prob_is_reduced_by_the_mean_unless_told_otherwise():
    gaussian, other, x_s = pair()
    close(gaussian.log_prob(x_s) * 8, oracle_log_prob(gaussian, x_s, "sum"))
    close(gaussian.log_ratio(other, x_s) * 8, gaussian.log_ratio(other, x_s, "sum"))
    close(gaussian.kl(other) * 8, gaussian.kl(other, "sum"))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_log_ratio_is_the_difference_of_log_densities(reduce: str):
    policy, reference, x_s = pair()
    wanted = oracle_log_prob(policy, x_s, reduce) - oracle_log_prob(reference, x_s, reduce)
    close(policy.log_ratio(reference, x_s, reduce), wanted, 1e-10)


def test_log_ratio_is_exactly_zero_for_equal_means():
    policy, _, x_s = pair()
    twin = Gaussian(policy.mean.clone(), policy.std)
    assert torch.equal(policy.log_ratio(twin, x_s), torch.zeros(2, 3, dtype=torch.float64))


def test_log_ratio_in_float32_beats_the_difference_of_log_densities():
    policy, reference, x_s = pair(drift=1e-3)
    single = [Gaussian(g.mean.float(), g.std.float()) for g in (policy, reference)]
    x_s = x_s.float()
    double = [oracle_log_prob(Gaussian(g.mean.double(), g.std.double()), x_s.double(), "sum") for g in single]
    wanted = double[0] - double[1]
    factored = single[0].log_ratio(single[1], x_s, "sum").double()
    naive = (oracle_log_prob(single[0], x_s, "sum") - oracle_log_prob(single[1], x_s, "sum")).double()
    assert float((factored - wanted).abs().max()) < 0.2 * float((naive - wanted).abs().max())


def test_the_margin_of_siblings_is_linear_in_their_difference():
    policy, reference, x_s = pair()
    margin = policy.log_ratio(reference, x_s, "sum").diff(dim=0)[0]
    drift = policy.mean[0] - reference.mean[0]
    close(margin, ((x_s[1] - x_s[0]) * drift).sum((1, 2, 3)) / policy.std**2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_log_ratio_is_a_difference_of_denoising_errors(prediction: str):
    # out* = (x_s - A x_t) / k is the output that would have led to x_s; then
    # rho = -k^2 / (2 sigma^2) (|out* - out|^2 - |out* - out'|^2), whatever the network predicts.
    process = ddim(sd_schedule(prediction_type=prediction), 20, 1.0)
    for index in range(20):
        step = torch.tensor([index])
        x_t, out, other, x_s = (random(*SHAPE, seed=seed) for seed in range(4))
        found = process.reverse(step, x_t, out).log_ratio(process.reverse(step, x_t, other), x_s, "sum")
        a, k, sigma = (float(getattr(process, name)[index]) for name in ("mean_state", "mean_out", "sigma"))
        target = (x_s - a * x_t) / k
        errors = ((target - out) ** 2).sum() - ((target - other) ** 2).sum()
        close(found[0], -(k**2) / (2 * sigma**2) * errors, 1e-9)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_kl_is_the_closed_form_of_two_normals(reduce: str):
    policy, reference, _ = pair()
    std = policy.std.reshape(-1, 1, 1, 1)
    terms = kl_divergence(Normal(policy.mean, std), Normal(reference.mean, std))
    close(policy.kl(reference, reduce), getattr(terms, reduce)((-3, -2, -1)))


def test_kl_is_the_expected_log_ratio_of_own_samples():
    policy, reference, _ = pair()
    noise = random(4000, 3, 2, 2, 2, seed=9)
    draws = policy.sample(torch.cat([noise, -noise]))  # antithetic: the linear term cancels exactly
    close(policy.log_ratio(reference, draws).mean(0), policy.kl(reference)[0], 1e-9)


def test_sampling_scales_noise_by_the_std_of_each_row():
    policy, _, _ = pair()
    noise = random(4, 3, 2, 2, 2, seed=5)
    found = policy.sample(noise)
    for row, std in enumerate((0.2, 0.6, 1.5)):
        close(found[:, row], policy.mean[:, row] + std * noise[:, row])


@pytest.mark.parametrize("ask", ["log_prob", "log_ratio", "kl"])
def test_a_density_of_a_deterministic_step_is_refused(ask: str):
    gaussian = Gaussian(torch.zeros(2, 1, 1, 1), torch.tensor([1.0, 0.0]))
    x_s = torch.zeros(2, 1, 1, 1)
    arguments = {"log_prob": (x_s,), "log_ratio": (gaussian, x_s), "kl": (gaussian,)}[ask]
    with pytest.raises(DensityError, match=r"stochastic step, but std is 0.*\n?.*eta > 0"):
        getattr(gaussian, ask)(*arguments)


def test_a_deterministic_step_can_still_be_sampled():
    gaussian = Gaussian(torch.ones(1, 1, 1, 1), torch.zeros(1))
    assert torch.equal(gaussian.sample(torch.full((1, 1, 1, 1), 5.0)), gaussian.mean)


def test_training_on_deterministic_steps_is_refused_before_the_run():
    schedule = sd_schedule()
    with pytest.raises(DensityError, match=r"step 4 \(t = 751\) is deterministic .*eta > 0"):
        ddim(schedule, 20, 0.0).check_density((4, 8))
    with pytest.raises(DensityError, match="step 19"):
        ddpm(schedule, 20).check_density((0, 19))
    ddpm(schedule, 20).check_density(tuple(range(19)))
    ddim(schedule, 20, 1.0).check_density(tuple(range(20)))


def test_rows_of_a_batch_use_their_own_step():
    process: Process = ddim(sd_schedule(), 20, 1.0)
    step = torch.tensor([0, 19, 7])
    x_t, out = random(2, 3, 1, 2, 2, seed=1), random(2, 3, 1, 2, 2, seed=2)
    together = process.reverse(step, x_t, out)
    clean = process.x_0(step, x_t, out)
    for row, index in enumerate(step):
        alone = process.reverse(index[None], x_t[:, row : row + 1], out[:, row : row + 1])
        close(together.mean[:, row : row + 1], alone.mean)
        close(together.std[row : row + 1], alone.std)
        close(clean[:, row : row + 1], process.x_0(index[None], x_t[:, row : row + 1], out[:, row : row + 1]))
