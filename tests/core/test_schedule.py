"""The noise schedule agrees with diffusers' schedulers on which times are visited."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from raypref.core.schedule import FlowSchedule, PredictionType
from tests.toys import sd_alphas_cumprod, sd_schedule


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("count", [1, 4, 7, 20, 50, 999])
@pytest.mark.parametrize("offset", [0, 1])
def test_times_are_those_of_diffusers(spacing: str, count: int, offset: int):
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(count)
    schedule = sd_schedule(timestep_spacing=spacing, steps_offset=offset)
    assert schedule.timesteps(count).tolist() == scheduler.timesteps.tolist()


def test_twenty_leading_steps_start_at_951_and_end_at_1():
    assert sd_schedule().timesteps(20).tolist() == list(range(951, 0, -50))


def test_alpha_bar_before_time_zero_is_the_checkpoints_choice():
    times = torch.tensor([-49, -1, 0, 999])
    alphas_cumprod = sd_alphas_cumprod()
    found = sd_schedule(final_alpha_cumprod=0.75).alpha_bar(times)
    assert torch.equal(
        found, torch.stack([*torch.tensor([0.75, 0.75]).double(), alphas_cumprod[0], alphas_cumprod[999]])
    )


def test_zero_terminal_snr_is_refused():
    alphas_cumprod = sd_alphas_cumprod()
    alphas_cumprod[-1] = 0
    with pytest.raises(ValueError, match="rescale_betas_zero_snr=false"):
        sd_schedule(alphas_cumprod=alphas_cumprod)


@pytest.mark.parametrize("count", [0, 1001])
def test_impossible_step_counts_are_refused(count: int):
    with pytest.raises(ValueError, match="choose 1 to 1000"):
        sd_schedule().timesteps(count)


def test_an_offset_that_leaves_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"steps_offset = 1 .*schedule ends at 999"):
        sd_schedule().timesteps(1000)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noised_pictures_and_their_targets_are_those_of_diffusers(prediction_type: PredictionType):
    oracle = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule = sd_schedule(prediction_type=prediction_type)
    x_0, noise = (torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    t = torch.tensor([0, 500, 999])
    x_t, target = schedule.noised(x_0, noise[0], t)
    for arm in range(2):
        torch.testing.assert_close(x_t[arm], oracle.add_noise(x_0[arm], noise[0], t), rtol=1e-5, atol=1e-5)
        wanted = noise[0] if prediction_type == "epsilon" else oracle.get_velocity(x_0[arm], noise[0], t)
        torch.testing.assert_close(target[arm], wanted, rtol=1e-5, atol=1e-5)
    assert schedule.training_times().tolist() == list(range(1000))


def test_noised_pictures_of_a_flow_are_those_of_diffusers():
    oracle, schedule = FlowMatchEulerDiscreteScheduler(shift=3.0), FlowSchedule(shift=3.0)
    times = schedule.training_times()
    torch.testing.assert_close(times.flip(0).float(), oracle.timesteps, rtol=1e-5, atol=1e-4)
    x_0, noise = (torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    rows = torch.tensor([999, 400, 0])
    x_t, target = schedule.noised(x_0, noise, times[rows])
    wanted = oracle.scale_noise(x_0, oracle.timesteps[999 - rows], noise)
    torch.testing.assert_close(x_t, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(target, noise - x_0)
