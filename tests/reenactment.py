"""A slow re-enactment of the sampler: one prompt, one latent at a time, by diffusers' own scheduler."""

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from raypref.core.seeding import Key
from raypref.train.rollout import ScoreRequest
from tests.toys import ToyDenoiser, score_of


class Reenactment:
    """Draws with the noise that a key addresses."""

    def __init__(self, prompt: str, key: Key, steps: int = 20) -> None:
        self.prompt, self.key, self.denoiser = prompt, key, ToyDenoiser()
        self.scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        )  # fmt: skip
        self.scheduler.set_timesteps(steps)

    def start(self, candidate: int = 0) -> Tensor:
        return self.key("x_T", 0, candidate).normal(2, 2, 2)[None]

    def out(self, step: int, x_t: Tensor) -> Tensor:
        return self.denoiser.predict(x_t, self.scheduler.timesteps[step][None], (self.prompt,), 5.0)

    @torch.no_grad()
    def child(self, step: int, x_t: Tensor, candidate: int, what: str = "step") -> Tensor:
        noise = self.key(what, step, candidate).normal(2, 2, 2)[None]
        t = self.scheduler.timesteps[step]
        return self.scheduler.step(self.out(step, x_t), t, x_t, eta=1.0, variance_noise=noise).prev_sample

    def sigma(self, step: int) -> float:
        """The standard deviation of a step's noise, from two steps that differ in nothing else."""
        x_t, t = torch.zeros(1, 2, 2, 2), self.scheduler.timesteps[step]
        one, none = (
            self.scheduler.step(x_t, t, x_t, eta=1.0, variance_noise=noise).prev_sample
            for noise in (torch.ones_like(x_t), x_t)
        )
        return float((one - none).mean())

    @torch.no_grad()
    def quality(self, step: int, x_t: Tensor) -> Tensor:
        """Q of a state at the start of a step; `step` = number of steps means that it is clean."""
        return self._quality(step, x_t)

    def _quality(self, step: int, x_t: Tensor) -> Tensor:
        clean = x_t
        if step < len(self.scheduler.timesteps):
            t = self.scheduler.timesteps[step]
            clean = self.scheduler.step(
                self.out(step, x_t), t, x_t, variance_noise=0 * x_t, eta=1.0
            ).pred_original_sample
        return score_of(ScoreRequest(clean, (self.prompt,), torch.zeros(1, dtype=torch.int64)))[0]

    def gradient(self, step: int, x_t: Tensor) -> Tensor:
        """Of Q in the state, through the network."""
        x_t = x_t.detach().requires_grad_()
        return torch.autograd.grad(self._quality(step, x_t), x_t)[0]
