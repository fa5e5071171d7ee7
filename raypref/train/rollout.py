"""The search itself, as a generator: it denoises, yields what it wants scored, and is sent the scores.

Tree search needs scores inside the denoising loop, while rewards live in other processes. Written as a generator it is
one pure function for every runtime; a sampler that drives two of them denoises one while the other waits.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raypref.core.process import Gaussian, Process
from raypref.core.search import CHILD, NEEDS, NEXT, PARENT, Search
from raypref.core.supervise import credit, standing
from raypref.core.types import Rollout
from raypref.models.base import Denoiser
from raypref.train.chunk import Chunk


@dataclass(frozen=True)
class ScoreRequest:
    """Clean latents to decode and score."""

    x_0: Float[Tensor, "N C H W"]
    prompts: tuple[str, ...]
    t: Int[Tensor, " N"]
    """The time that each latent was predicted at, 0 where it is finished: for rewards that know the step."""
    gradient: bool = False
    """Whether the gradient of the (first) reward in x_0 is wanted too."""
    full: bool = False
    """Whether the full decoder is to decode predictions too, where a tiny one would."""

    def take(self, rows: Int[Tensor, " K"]) -> "ScoreRequest":
        """The given rows."""
        prompts = tuple(self.prompts[int(row)] for row in rows)
        return replace(self, x_0=self.x_0[rows], prompts=prompts, t=self.t[rows])


@dataclass(frozen=True)
class Scores:
    """The answer to a ScoreRequest."""

    value: Float[Tensor, "N R"]
    """NaN where a reward gave none."""
    gradient: Float[Tensor, "N C H W"] | None = None
    failures: dict[str, int] = field(default_factory=dict)
    """Why, and of how many pictures, a reward gave no score."""
    seconds: float = 0.0
    """What decoding and scoring took, where it was done."""


Encode = Callable[[tuple[bytes, ...]], Float[Tensor, "P C H W"]]
"""Clean latents of pictures, each given as its file's bytes."""
Exploration = Generator[ScoreRequest, Scores, Rollout]


@dataclass(frozen=True)
class Walk:
    """A denoiser bound to a chunk of P prompts: predictions and addressed noise for G latents a prompt, [G P C H W].

    Step T, after the last, is where latents are finished: nothing is predicted there.
    """

    denoiser: Denoiser
    process: Process
    chunk: Chunk
    guidance_scale: float
    encode: Encode | None = None
    """Clean latents of the chunk's sources, where pictures are edited."""
    graph_steps: frozenset[int] = frozenset()
    """Steps whose predictions keep their graph, for a learner in this process to train on. It reaches the recorded
    means; states and clean latents are cut off from it."""

    def start(self, group: int) -> Float[Tensor, "G P C H W"]:
        """x_T of `group` trajectories a prompt."""
        return self.noise("x_T", 0, group)

    def noise(self, what: str, step: int, group: int) -> Float[Tensor, "G P C H W"]:
        """Standard normal draws under the address (what, step, candidate) of each prompt."""
        shape = self.denoiser.latent_shape
        return torch.stack(
            [
                torch.stack([key(what, step, candidate).normal(*shape) for key in self.chunk.keys])
                for candidate in range(group)
            ]
        )

    def rows(self, step: int) -> Int[Tensor, " P"]:
        """The process row of each prompt."""
        return torch.full((len(self.chunk.prompts),), step, dtype=torch.int64)

    def predict(self, step: int, x_t: Float[Tensor, "G P C H W"]) -> Float[Tensor, "G P C H W"] | None:
        """The network's guided output at the start of a step, on the CPU; None after the last step."""
        with torch.set_grad_enabled(step in self.graph_steps):
            return self._out(step, x_t) if step < len(self.process) else None

    def _out(self, step: int, x_t: Float[Tensor, "G P C H W"]) -> Float[Tensor, "G P C H W"]:
        group, count = x_t.shape[:2]
        t = self.process.t[step].expand(group * count)
        out = self.denoiser.predict(x_t.flatten(0, 1), t, self.chunk.prompts * group, self.guidance_scale)
        return out.cpu().unflatten(0, (group, count))

    def reverse(self, step: int, x_t: Float[Tensor, "G P C H W"], out: Tensor | None) -> Gaussian:
        """The Gaussian of the step."""
        assert out is not None, "there is no step after the last"
        return self.process.reverse(self.rows(step), x_t, out)

    def step(self, step: int, x_t: Float[Tensor, "G P C H W"], out: Tensor | None, group: int) -> Tensor:
        """`group` candidates a prompt for the next state: [G P C H W]."""
        return self.draw("step", step, self.reverse(step, x_t, out), group)

    def draw(self, what: str, step: int, gaussian: Gaussian, group: int) -> Float[Tensor, "G P C H W"]:
        """`group` draws a prompt from the step's Gaussian, with the noise of that address."""
        return gaussian.sample(self.noise(what, step, group)).detach()

    def x_0(self, step: int, x_t: Float[Tensor, "G P C H W"], out: Tensor | None) -> Float[Tensor, "G P C H W"]:
        """The predicted clean latent at the start of a step; after the last step the latent is clean itself."""
        return x_t if out is None else self.process.x_0(self.rows(step), x_t, out.detach())

    def pull_back(
        self, step: int, x_t: Float[Tensor, "G P C H W"], gradient: Float[Tensor, "G P C H W"]
    ) -> Float[Tensor, "G P C H W"]:
        """A gradient in x_0-hat(x_t), carried back to x_t through the network."""
        if step == len(self.process):
            return gradient
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x_0 = self.process.x_0(self.rows(step), x_t, self._out(step, x_t))
            return torch.autograd.grad(x_0, x_t, gradient)[0]

    def request(self, clean: dict[int, Float[Tensor, "n P C H W"]], gradient: bool = False) -> ScoreRequest:
        """Asks for the scores of clean latents by the step that they were predicted at."""
        times = [
            torch.full((x_0.shape[0] * x_0.shape[1],), int(self.process.t[step]) if step < len(self.process) else 0)
            for step, x_0 in clean.items()
        ]
        x_0 = torch.cat([x_0.flatten(0, 1) for x_0 in clean.values()])
        return ScoreRequest(x_0, self.chunk.prompts * (len(x_0) // len(self.chunk.prompts)), torch.cat(times), gradient)

    def answers(self, clean: dict[int, Tensor], scores: Scores) -> dict[int, Float[Tensor, "n P R"]]:
        """The scores of a request, by the same steps."""
        parts = scores.value.unflatten(0, (-1, len(self.chunk.prompts))).split([len(x_0) for x_0 in clean.values()])
        return dict(zip(clean, parts, strict=True))


class Recording:
    """Collects what a search visits, and makes a Rollout of it."""

    def __init__(self, walk: Walk, search: Search) -> None:
        self.walk, self.search = walk, search
        self.columns: dict[str, list[Tensor]] = {
            name: [] for name in ("x_t", "x_s", "value", "parent_value", "next_value", "mean")
        }

    def add(self, **columns: Float[Tensor, "..."]) -> None:
        """One recorded step: latents [G P C H W], or [1 P C H W] of a shared parent; scores [G P R]."""
        for name, value in columns.items():
            self.columns[name].append(value)

    def rollout(self, final: Float[Tensor, "G P R"]) -> Rollout:
        def gather(name: str) -> Tensor:
            return torch.stack(self.columns[name]).transpose(0, 2).contiguous()  # [S G P ...] -> [P G S ...]

        return Rollout(
            prompts=self.walk.chunk.prompts,
            steps=torch.tensor(self.search.recorded()),
            x_t=gather("x_t"),
            x_s=gather("x_s"),
            value=gather("value"),
            parent_value=gather("parent_value"),
            next_value=gather("next_value"),
            final=final.transpose(0, 1).contiguous(),
            mean=gather("mean") if self.search.keep_mean else None,
            policy_version=self.walk.denoiser.parameters.version,
            policy_checksum=self.walk.denoiser.parameters.checksum,
        )


@dataclass(frozen=True)
class State:
    """Where a tree's trajectories stand: at the start of a step, its output known."""

    step: int
    x_t: Float[Tensor, "1 P C H W"]
    out: Float[Tensor, "1 P C H W"] | None
    value: Float[Tensor, "1 P R"] | None
    """Q(x_t), where it has been scored."""


def explore(walk: Walk, search: Search) -> Exploration:
    """Runs a search over a chunk of prompts."""
    if search.shape == "chain":
        return (yield from _chain(walk, search))
    recording = Recording(walk, search)
    yield from _tree(walk, search, recording)
    return recording.rollout(torch.full_like(recording.columns["value"][-1], torch.nan))


def best_of_n(walk: Walk, search: Search) -> Generator[ScoreRequest, Scores, Float[Tensor, "P C H W"]]:
    """Runs a tree search, and from its end a plain trajectory to the clean latent."""
    state = yield from _tree(walk, search, Recording(walk, search))
    return onward(walk, state.step, state.x_t, state.out)


def onward(
    walk: Walk, step: int, x_t: Float[Tensor, "1 P C H W"], out: Float[Tensor, "1 P C H W"] | None
) -> Float[Tensor, "P C H W"]:
    """A plain trajectory from the start of a step, whose output is known, to the clean latent."""
    for now in range(step, len(walk.process)):
        x_t = walk.step(now, x_t, out, 1)
        out = walk.predict(now + 1, x_t)
    return x_t[0]


def finish(
    walk: Walk, steps: tuple[int, ...] = (), candidates: int = 1
) -> tuple[Float[Tensor, "P C H W"], dict[int, Float[Tensor, "G P C H W"]]]:
    """One plain trajectory a prompt: the clean latent, and the predictions of it after each of `steps`, from that many
    candidates of the step, of which the trajectory's own is the first."""
    x_t = walk.start(1)
    predicted = {}
    for step in range(len(walk.process)):
        out = walk.predict(step, x_t)
        assert out is not None
        if step - 1 in steps:
            predicted[step] = walk.x_0(step, x_t, out)
        x_t = walk.step(step, x_t[:1], out[:1], candidates if step in steps else 1)
    return x_t[0], predicted


def _tree(walk: Walk, search: Search, recording: Recording) -> Generator[ScoreRequest, Scores, State]:
    """At each of search.steps one parent gets G children; the search goes on from one of them.

    The output that scored the followed child is its next step's prediction: no state is predicted twice, and nothing is
    predicted beyond the last recorded step.
    """
    x_t = walk.start(1)
    state = State(0, x_t, walk.predict(0, x_t), None)
    while state.step <= search.steps[-1]:
        if state.step in search.steps:
            state = yield from _branch(walk, search, recording, state)
        else:
            x_t = walk.step(state.step, state.x_t, state.out, 1)
            state = State(state.step + 1, x_t, walk.predict(state.step + 1, x_t), None)
    return state


def _branch(walk: Walk, search: Search, recording: Recording, start: State) -> Generator[ScoreRequest, Scores, State]:
    """G candidates run `inner_steps` steps, are judged, and one is followed."""
    group, needs = search.candidates, NEEDS[search.step_reward]
    x, out, end = start.x_t, start.out, start.step + search.inner_steps
    visited = []
    for step in range(start.step, end):
        gaussian = walk.reverse(step, x, out)
        parent, x = x, walk.draw("step", step, gaussian, group)
        out = walk.predict(step + 1, x)
        visited.append((parent, x, gaussian.mean))
    clean = {end: walk.x_0(end, x, out)}
    if PARENT in needs and start.value is None:
        clean[start.step] = walk.x_0(start.step, start.x_t, start.out)
    if NEXT in needs:
        below = walk.draw("look-ahead", end, walk.reverse(end, x, out), group)
        with torch.no_grad():
            clean[end + 1] = walk.x_0(end + 1, below, walk.predict(end + 1, below))
    answers = walk.answers(clean, (yield walk.request(clean)))
    value = answers[end]  # [G P R]
    unknown = torch.full_like(value, torch.nan)
    parent_value = unknown[:1] if PARENT not in needs else answers.get(start.step, start.value)
    assert parent_value is not None
    next_value = answers.get(end + 1, unknown)
    chosen = _followed(walk, search, start.step, credit(search.step_reward, parent_value, value, next_value))
    columns = torch.arange(len(chosen))
    state = State(end, x[chosen, columns][None], None if out is None else out[chosen, columns][None],
                  value[chosen, columns][None])  # fmt: skip
    if search.guidance.kind != "none":
        state = yield from _guided(walk, search, state, walk.process.sigma[start.step])
        x = x.index_put((chosen, columns), state.x_t[0])
        assert state.value is not None
        value = value.index_put((chosen, columns), state.value[0])
        visited[-1] = (visited[-1][0], x, visited[-1][2])
    states = 1 if search.shares_parent() else group
    for parent, child, mean in visited:
        recording.add(
            x_t=parent.expand(states, *parent.shape[1:]),
            x_s=child,
            value=value,
            parent_value=parent_value.expand(states, -1, -1),
            next_value=next_value,
            mean=mean.expand(states, *mean.shape[1:]),
        )
    return state


def _followed(walk: Walk, search: Search, step: int, ranking: Float[Tensor, "G P R"]) -> Int[Tensor, " P"]:
    """The candidate that each prompt's trajectory goes on from."""
    if search.follow == "random":
        return torch.tensor([key("follow", step).integer(len(ranking)) for key in walk.chunk.keys])
    place = standing(ranking.transpose(0, 1)[:, :, None])[..., 0]  # [P G]
    return place.nan_to_num(nan=-torch.inf).argmax(1)


def _guided(
    walk: Walk, search: Search, state: State, sigma: Float[Tensor, ""]
) -> Generator[ScoreRequest, Scores, State]:
    """The state, moved along the gradient of the reward and scored again; unmoved where there is no finite gradient."""
    guidance = search.guidance
    clean = {state.step: walk.x_0(state.step, state.x_t, state.out)}
    scores = yield walk.request(clean, gradient=True)
    assert scores.gradient is not None
    direction = walk.pull_back(state.step, state.x_t, scores.gradient[None])
    if guidance.kind == "target_l2":
        direction = 2 * (guidance.target - scores.value[:, 0])[None, :, None, None, None] * direction
    if guidance.normalize:
        size = direction.square().mean((2, 3, 4), keepdim=True).sqrt()
        direction = direction / size * sigma.to(direction)
    x_t = state.x_t + guidance.scale * direction.nan_to_num(0.0, 0.0, 0.0)
    moved = {state.step: walk.x_0(state.step, x_t, out := walk.predict(state.step, x_t))}
    answers = walk.answers(moved, (yield walk.request(moved)))
    return State(state.step, x_t, out, answers[state.step])


def _chain(walk: Walk, search: Search) -> Exploration:
    """G independent trajectories a prompt, to the end. Only the finished pictures are scored, unless the step reward
    needs the predicted ones on the way."""
    group, total, needs = search.candidates, len(walk.process), NEEDS[search.step_reward]
    x_t = walk.start(1).expand(group, -1, -1, -1, -1) if search.same_start else walk.start(group)
    states, means = [x_t], []
    clean = {}
    wanted = {step + offset for step in search.steps for offset in needs} | {total}
    for step in range(total):
        shared = step == 0 and search.same_start
        out = walk.predict(step, x_t[:1] if shared else x_t)
        assert out is not None
        gaussian = walk.reverse(step, x_t, out.expand_as(x_t))
        if step in wanted:
            clean[step] = walk.x_0(step, x_t, out.expand_as(x_t))
        x_t = walk.draw("step", step, gaussian, group)
        means.append(gaussian.mean)
        states.append(x_t)
    clean[total] = x_t
    answers = walk.answers(clean, (yield walk.request(clean)))
    unknown = torch.full_like(answers[total], torch.nan)
    recording = Recording(walk, search)
    for step in search.steps:
        parent, child, following = (
            answers[step + offset] if offset in needs else unknown for offset in (PARENT, CHILD, NEXT)
        )
        recording.add(x_t=states[step], x_s=states[step + 1], value=child, parent_value=parent, next_value=following,
                      mean=means[step])  # fmt: skip
    return recording.rollout(answers[total])
