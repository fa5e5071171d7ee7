"""The noise schedule of a diffusion model, and the times that a sampler visits."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class Schedule:
    """x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) noise, for t in 0 .. N-1.

    Field names are those of diffusers' schedulers, so that a checkpoint's scheduler config maps onto them one to one.
    """

    alphas_cumprod: Float[Tensor, " N"]
    """alpha_bar, float64, strictly between 0 (excluded) and 1."""
    final_alpha_cumprod: float
    """alpha_bar at the time before t = 0: alphas_cumprod[0], or 1.0 where the checkpoint sets alpha to one."""
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing = "leading"
    steps_offset: int = 1

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type = {self.prediction_type!r}: epsilon and v_prediction are supported.")
        if not bool(((self.alphas_cumprod > 0) & (self.alphas_cumprod < 1)).all()):
            raise ValueError(
                "alphas_cumprod must lie strictly between 0 and 1: a schedule rescaled to zero terminal SNR has no "
                "finite predicted clean image at its first step. Use a checkpoint with rescale_betas_zero_snr=false."
            )

    def timesteps(self, num_inference_steps: int) -> Int[Tensor, " T"]:
        """The times t that `num_inference_steps` steps start from, noisiest first (diffusers' three spacings)."""
        count, total = num_inference_steps, len(self.alphas_cumprod)
        if not 1 <= count <= total:
            raise ValueError(f"num_inference_steps = {count}: choose 1 to {total}, the length of the noise schedule.")
        if self.timestep_spacing == "leading":
            times = torch.arange(count, dtype=torch.int64).flip(0) * (total // count) + self.steps_offset
        elif self.timestep_spacing == "trailing":
            times = torch.round(torch.arange(total, 0, -total / count, dtype=torch.float64)).long()[:count] - 1
        else:
            times = torch.linspace(0, total - 1, count, dtype=torch.float64).round().long().flip(0)
        if int(times.max()) >= total:
            raise ValueError(
                f"num_inference_steps = {count} with steps_offset = {self.steps_offset} starts at {int(times.max())}, "
                f"but the schedule ends at {total - 1}. Use fewer steps."
            )
        return times

    @property
    def num_train_timesteps(self) -> int:
        """Noise levels that the network was trained on."""
        return len(self.alphas_cumprod)

    def training_times(self) -> Int[Tensor, " N"]:
        """The times that the network was trained at, from the least noise to the most."""
        return torch.arange(len(self.alphas_cumprod))

    def noised(
        self, x_0: Float[Tensor, "*a B C H W"], noise: Float[Tensor, "*b B C H W"], t: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "*a B C H W"], Float[Tensor, "*a B C H W"]]:
        """(x_t, target): pictures with noise, and what a perfect network would say of them: the noise, or v =
        sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022)."""
        alpha_bar = self.alpha_bar(t)[:, None, None, None]
        signal, spread = alpha_bar.sqrt().to(x_0), (1 - alpha_bar).sqrt().to(x_0)
        target = signal * noise - spread * x_0 if self.prediction_type == "v_prediction" else noise.expand_as(x_0)
        return signal * x_0 + spread * noise, target

    def alpha_bar(self, times: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """alpha_bar at `times`; a negative time is the one before t = 0."""
        inside = self.alphas_cumprod[times.clamp(min=0)]
        return torch.where(times < 0, torch.full_like(inside, self.final_alpha_cumprod), inside)


@dataclass(frozen=True)
class FlowSchedule:
    """x_t = (1 - sigma) x_0 + sigma noise, sigma from 1 to 0: rectified flow, as in Stable Diffusion 3.

    Field names are those of diffusers' FlowMatchEulerDiscreteScheduler.
    """

    num_train_timesteps: int = 1000
    shift: float = 3.0
    """Above 1, steps gather at high noise: sigma <- shift sigma / (1 + (shift - 1) sigma)."""

    def _shifted(self, sigma: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, " levels"]:
        """The noise levels that steps start from, and the 0 that the last one ends at; float64.

        As in diffusers, the grid between the training levels, which are shifted, is shifted again.
        """
        if not 1 <= num_inference_steps <= self.num_train_timesteps:
            raise ValueError(f"num_inference_steps = {num_inference_steps}: choose 1 to {self.num_train_timesteps}.")
        ends = self._shifted(torch.tensor([1.0, 1 / self.num_train_timesteps], dtype=torch.float64))
        grid = torch.linspace(float(ends[0]), float(ends[1]), num_inference_steps, dtype=torch.float64)
        return torch.cat([self._shifted(grid), torch.zeros(1, dtype=torch.float64)])

    def times(self, num_inference_steps: int) -> Float[Tensor, " T"]:
        """What the network is fed: the noise level times num_train_timesteps."""
        return self.sigmas(num_inference_steps)[:-1] * self.num_train_timesteps

    def training_times(self) -> Float[Tensor, " N"]:
        """See `Schedule.training_times`: noise levels in even steps, shifted."""
        levels = torch.arange(1, self.num_train_timesteps + 1, dtype=torch.float64) / self.num_train_timesteps
        return self._shifted(levels) * self.num_train_timesteps

    def noised(
        self, x_0: Float[Tensor, "*a B C H W"], noise: Float[Tensor, "*b B C H W"], t: Num[Tensor, " B"]
    ) -> tuple[Float[Tensor, "*a B C H W"], Float[Tensor, "*a B C H W"]]:
        """See `Schedule.noised`; the network predicts noise - x_0."""
        sigma = (t.double() / self.num_train_timesteps)[:, None, None, None].to(x_0)
        return (1 - sigma) * x_0 + sigma * noise, noise - x_0
