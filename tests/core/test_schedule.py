"""The noise schedule agrees with diffusers' schedulers on which times are visited."""

import pytest
import torch
from diffusers import DDIMScheduler

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
