"""How the pictures of an evaluation are drawn: a value that goes to samplers with the chunk, and a generator like a
search's."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.process import MIN_STD
from raypref.core.search import Search
from raypref.train.rollout import ScoreRequest, Scores, Walk, best_of_n, finish, onward


@dataclass(frozen=True)
class Drawn:
    """What came of it."""

    x_0: Float[Tensor, "P C H W"]
    kl: Float[Tensor, "P T"] | None = None
    """See `Judgement.kl`."""


Draw = Generator[ScoreRequest, Scores, Drawn]


class Drawing(ABC):
    """A way to draw. Subclasses are frozen dataclasses: their fields cross process borders."""

    @abstractmethod
    def draw(self, walk: Walk) -> Draw:
        """Finished latents of the walk's prompts; asks for scores on the way where it needs them."""


@dataclass(frozen=True)
class Plain(Drawing):
    """Trajectories of the policy, and nothing else."""

    def draw(self, walk: Walk) -> Draw:
        """See `Drawing.draw`."""
        yield from ()
        return Drawn(finish(walk)[0])


@dataclass(frozen=True)
class Chosen(Drawing):
    """Trajectories that follow a search's choices: step-wise best-of-N."""

    search: Search

    def draw(self, walk: Walk) -> Draw:
        """See `Drawing.draw`."""
        return Drawn((yield from best_of_n(walk, self.search)))


@dataclass(frozen=True)
class Compared(Drawing):
    """Plain trajectories, along which every step is compared with the pretrained model's; for twice the forwards."""

    def draw(self, walk: Walk) -> Draw:
        """See `Drawing.draw`."""
        yield from ()
        x_t, columns = walk.start(1), []
        for step in range(len(walk.process)):
            policy = walk.reverse(step, x_t, walk.predict(step, x_t))
            with torch.no_grad(), walk.denoiser.reference():
                pretrained = walk.reverse(step, x_t, walk.predict(step, x_t))
            certain = float(walk.process.sigma[step]) <= MIN_STD
            columns.append(torch.full_like(x_t[0, :, 0, 0, 0], torch.nan) if certain else policy.kl(pretrained)[0])
            x_t = walk.draw("step", step, policy, 1)
        return Drawn(x_t[0], torch.stack(columns, 1))


@dataclass(frozen=True)
class Edited(Drawing):
    """Image to image (SDEdit, Meng et al. 2022, arXiv:2108.01073), with the steps and the noise level that diffusers'
    img2img pipelines take: the chunk's sources get the noise of the step from which `strength` of all steps are left,
    and these denoise it."""

    strength: float = 0.75

    def first_step(self, num_inference_steps: int) -> int:
        """The step that an edit begins with."""
        return num_inference_steps - max(1, min(int(num_inference_steps * self.strength), num_inference_steps))

    def draw(self, walk: Walk) -> Draw:
        """See `Drawing.draw`."""
        yield from ()
        assert walk.encode is not None, "this sampler was given no encoder"
        step = self.first_step(len(walk.process))
        x_0 = walk.encode(walk.chunk.sources)[None]
        t = walk.process.t[step].expand(len(walk.chunk.prompts))
        x_t, _ = walk.denoiser.schedule.noised(x_0, walk.start(1), t)
        return Drawn(onward(walk, step, x_t, walk.predict(step, x_t)))
