"""The search itself, as a generator: it denoises, yields what it wants scored, and is sent the scores.

Tree search needs scores inside the denoising loop, while rewards live in other processes. Written as a generator it is
one pure function for every runtime; a sampler that drives two of them denoises one while the other waits.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.process import Process
from raypref.core.types import Rollout, Search
from raypref.models.base import Denoiser
from raypref.train.chunk import Chunk


@dataclass(frozen=True)
class ScoreRequest:
    """Clean latents to decode and score."""

    x_0: Float[Tensor, "N C H W"]
    prompts: tuple[str, ...]


Scores = Float[Tensor, " N"]


@dataclass(frozen=True)
class Walk:
    """A denoiser bound to a chunk of P prompts: predictions and addressed noise for G latents a prompt, [G P C H W]."""

    denoiser: Denoiser
    process: Process
    chunk: Chunk
    guidance_scale: float

    def start(self, group: int) -> Float[Tensor, "G P C H W"]:
        """x_T of `group` trajectories a prompt."""
        return self._draw("x_T", 0, group)

    def noise(self, step: int, group: int) -> Float[Tensor, "G P C H W"]:
        """The noise of a step for `group` candidates a prompt."""
        return self._draw("step", step, group)

    def _draw(self, what: str, step: int, group: int) -> Float[Tensor, "G P C H W"]:
        shape = self.denoiser.latent_shape
        return torch.stack(
            [
                torch.stack([key(what, step, candidate).normal(*shape) for key in self.chunk.keys])
                for candidate in range(group)
            ]
        )

    def rows(self, step: int) -> Tensor:
        """The process row of each prompt: [P]."""
        return torch.full((len(self.chunk.prompts),), step, dtype=torch.int64)

    @torch.no_grad()
    def predict(self, step: int, x_t: Float[Tensor, "G P C H W"]) -> Float[Tensor, "G P C H W"]:
        """The network's guided output at the start of a step, on the CPU."""
        group, count = x_t.shape[:2]
        t = self.process.t[step].expand(group * count)
        out = self.denoiser.predict(x_t.flatten(0, 1), t, self.chunk.prompts * group, self.guidance_scale)
        return out.cpu().unflatten(0, (group, count))

    def x_0(self, step: int, x_t: Float[Tensor, "G P C H W"], out: Tensor | None) -> Float[Tensor, "G P C H W"]:
        """The predicted clean latent at the start of a step; after the last step the latent is clean itself."""
        return x_t if out is None else self.process.x_0(self.rows(step), x_t, out)

    def request(self, clean: Float[Tensor, "n P C H W"]) -> ScoreRequest:
        return ScoreRequest(clean.flatten(0, 1), self.chunk.prompts * len(clean))


def explore(walk: Walk, search: Search) -> Generator[ScoreRequest, Scores, Rollout]:
    """Runs a search over a chunk of prompts."""
    return _tree(walk, search) if search.shape == "tree" else _chain(walk, search)


def finish(walk: Walk) -> Float[Tensor, "P C H W"]:
    """One plain trajectory a prompt, to the clean latent: what an evaluation pictures."""
    x_t = walk.start(1)
    for step in range(len(walk.process)):
        out = walk.predict(step, x_t)
        x_t = walk.process.reverse(walk.rows(step), x_t, out).sample(walk.noise(step, 1))
    return x_t[0]


def _tree(walk: Walk, search: Search) -> Generator[ScoreRequest, Scores, Rollout]:
    """At each of search.steps one parent gets G children; the search goes on from one of them.

    The output that scored the followed child is its next step's prediction: no state is predicted twice, and nothing is
    predicted beyond the last recorded step.
    """
    group, last = search.candidates, len(walk.process) - 1
    with_parent = search.step_reward == "delta_parent"
    states, children_of, values, parent_values = [], [], [], []
    x_t = walk.start(1)
    out = walk.predict(0, x_t)
    known: Tensor | None = None  # Q(x_t) where the step before has scored it already, [1 P]
    for step in range(search.steps[-1] + 1):
        gaussian = walk.process.reverse(walk.rows(step), x_t, out)
        if step not in search.steps:
            x_t, known = gaussian.sample(walk.noise(step, 1)), None
            out = walk.predict(step + 1, x_t)
            continue
        x_s = gaussian.sample(walk.noise(step, group))
        outs = walk.predict(step + 1, x_s) if step < last else None
        clean = walk.x_0(step + 1, x_s, outs)
        if with_parent and known is None:
            clean = torch.cat([clean, walk.x_0(step, x_t, out)])
        scores = (yield walk.request(clean)).unflatten(0, (len(clean), -1))  # [G P] or [G+1 P]
        value = scores[:group]
        parent = (
            known if known is not None else scores[group:] if with_parent else torch.full_like(value[:1], torch.nan)
        )
        states.append(x_t)
        children_of.append(x_s)
        values.append(value)
        parent_values.append(parent)
        chosen = _followed(walk, search, step, value)
        columns = torch.arange(len(chosen))
        x_t, known = x_s[chosen, columns][None], value[chosen, columns][None]
        if outs is not None:
            out = outs[chosen, columns][None]
    return Rollout(
        prompts=walk.chunk.prompts,
        steps=torch.tensor(search.steps),
        x_t=torch.stack(states).permute(2, 1, 0, 3, 4, 5).contiguous(),
        x_s=torch.stack(children_of).permute(2, 1, 0, 3, 4, 5).contiguous(),
        value=torch.stack(values).permute(2, 1, 0).contiguous(),
        parent_value=torch.stack(parent_values).permute(2, 1, 0).contiguous(),
        final=torch.full((len(walk.chunk.prompts), group), torch.nan),
        policy_version=walk.denoiser.parameters.version,
        policy_checksum=walk.denoiser.parameters.checksum,
    )


def _followed(walk: Walk, search: Search, step: int, value: Float[Tensor, "G P"]) -> Tensor:
    """The candidate that each prompt's trajectory goes on from: [P]."""
    if search.follow == "random":
        return torch.tensor([key("follow", step).integer(len(value)) for key in walk.chunk.keys])
    return value.nan_to_num(nan=-torch.inf).argmax(0)


def _chain(walk: Walk, search: Search) -> Generator[ScoreRequest, Scores, Rollout]:
    """G independent trajectories a prompt, to the end. Only the finished pictures are scored, unless the step reward
    needs the predicted ones on the way."""
    group, total = search.candidates, len(walk.process)
    x_t = walk.start(1).expand(group, -1, -1, -1, -1) if search.same_start else walk.start(group)
    states, clean = [x_t], []
    for step in range(total):
        shared = step == 0 and search.same_start
        out = walk.predict(step, x_t[:1] if shared else x_t).expand_as(x_t)
        clean.append(walk.x_0(step, x_t, out))
        x_t = walk.process.reverse(walk.rows(step), x_t, out).sample(walk.noise(step, group))
        states.append(x_t)
    clean.append(x_t)
    offsets = {"final": (), "q": (1,), "delta_parent": (0, 1)}[search.step_reward]
    visited = sorted({step + offset for step in search.steps for offset in offsets})
    wanted = torch.cat([clean[at] for at in visited] + [x_t])
    scores = (yield walk.request(wanted)).unflatten(0, (len(visited) + 1, group, -1))  # [states+1 G P]
    place = {at: index for index, at in enumerate(visited)}
    unknown = torch.full((group, len(walk.chunk.prompts)), torch.nan)

    def at_states(offset: int) -> Tensor:
        return torch.stack([scores[place[s + offset]] if offset in offsets else unknown for s in search.steps], -1)

    return Rollout(
        prompts=walk.chunk.prompts,
        steps=torch.tensor(search.steps),
        x_t=torch.stack([states[s] for s in search.steps]).permute(2, 1, 0, 3, 4, 5).contiguous(),
        x_s=torch.stack([states[s + 1] for s in search.steps]).permute(2, 1, 0, 3, 4, 5).contiguous(),
        value=at_states(1).transpose(0, 1).contiguous(),
        parent_value=at_states(0).transpose(0, 1).contiguous(),
        final=scores[-1].T.contiguous(),
        policy_version=walk.denoiser.parameters.version,
        policy_checksum=walk.denoiser.parameters.checksum,
    )
