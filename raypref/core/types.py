"""The values that flow between the stages of a run. All frozen; latents are float32.

    prompts -> rollout(search) -> Rollout -> method.supervise -> Transitions -> method.loss -> Loss -> optimizer

Axes: A arms (WIN, LOSE) | B batch | M states (1 when siblings share their parent) | P prompts | G candidates |
S recorded steps | C H W latent. Only prompts and latents cross a process border, never embeddings or modules.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

WIN, LOSE = 0, 1

Shape = Literal["tree", "chain"]
Follow = Literal["best", "random"]
StepReward = Literal["delta_parent", "q", "final"]


@dataclass(frozen=True)
class Search:
    """How a rollout explores. A method's search is its default; a config overrides single fields."""

    shape: Shape = "tree"
    """tree: at each of `steps` one parent branches into candidates. chain: independent trajectories to the end."""
    candidates: int = 2
    """G, branches of a parent or trajectories of a prompt."""
    steps: tuple[int, ...] = (0, 4, 8, 12, 16)
    """Indices of the recorded (trained) steps, 0 being the noisiest."""
    step_reward: StepReward = "delta_parent"
    """What ranks candidates. q: Q(x_s); delta_parent: Q(x_s) - Q(x_t); final: the reward of the finished picture."""
    follow: Follow = "best"
    """tree only: the branch that the trajectory continues from."""
    same_start: bool = True
    """chain only: all trajectories of a prompt start at one x_T."""

    def __post_init__(self) -> None:
        if self.candidates < 2:
            raise ValueError(f"candidates = {self.candidates}: a preference needs at least 2.")
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 0:
            raise ValueError(
                f"steps = {list(self.steps)}: give at least one index, ascending, without repeats, from 0."
            )
        if self.shape == "tree" and self.step_reward == "final":
            raise ValueError(
                "step_reward = 'final' cannot rank a tree's siblings, which share one future. "
                "Use step_reward = 'delta_parent' or 'q', or shape = 'chain'."
            )

    def check_steps(self, num_inference_steps: int) -> None:
        """Raises ValueError where a branch step lies outside a sampler of that many steps."""
        if self.steps[-1] >= num_inference_steps:
            raise ValueError(
                f"steps = {list(self.steps)}: with num_inference_steps = {num_inference_steps} "
                f"the last step is {num_inference_steps - 1}."
            )


@dataclass(frozen=True)
class Rollout:
    """What a search recorded: parents, children and their scores."""

    prompts: tuple[str, ...]
    """P."""
    steps: Int[Tensor, " S"]
    """Rows of the process table."""
    x_t: Float[Tensor, "P M S C H W"]
    x_s: Float[Tensor, "P G S C H W"]
    value: Float[Tensor, "P G S"]
    """Q(x_s) = reward of x_0-hat(x_s); NaN where the search did not ask, or the reward failed."""
    parent_value: Float[Tensor, "P M S"]
    """Q(x_t); NaN likewise."""
    final: Float[Tensor, "P G"]
    """The reward of the finished picture of a chain; NaN for trees."""
    policy_version: int
    """The version of the weights that drew it."""
    policy_checksum: str
    """Checksum of the live weights that drew it: the learner refuses another."""


@dataclass(frozen=True)
class Transitions:
    """Preference pairs over reverse steps that happened. Arm order is (WIN, LOSE)."""

    prompts: tuple[str, ...]
    """B."""
    steps: Int[Tensor, " B"]
    x_t: Float[Tensor, "M B C H W"]
    """M = 1: winner and loser share the parent, and one forward serves both."""
    x_s: Float[Tensor, "2 B C H W"]
    credit: Float[Tensor, "2 B"]
    """The step reward that ranked the pair."""
    weight: Float[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Int[Tensor, " n"]) -> "Transitions":
        """The given pairs, in that order."""
        return Transitions(
            tuple(self.prompts[int(row)] for row in rows),
            self.steps[rows],
            self.x_t[:, rows],
            self.x_s[:, rows],
            self.credit[:, rows],
            self.weight[rows],
        )


@dataclass(frozen=True)
class Loss:
    """A loss for each pair, and what to log beside it."""

    per_example: Float[Tensor, " B"]
    metrics: dict[str, Float[Tensor, " B"]]


def concat_rollouts(parts: list[Rollout]) -> Rollout:
    """One rollout from chunks that were drawn with the same weights and the same search.

    Raises:
        ValueError: where the chunks disagree on the weights that drew them.
    """
    versions = {(part.policy_version, part.policy_checksum) for part in parts}
    if len(versions) != 1:
        raise ValueError(f"chunks of one iteration were drawn with different weights: {sorted(versions)}")
    return Rollout(
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        steps=parts[0].steps,
        x_t=torch.cat([part.x_t for part in parts]),
        x_s=torch.cat([part.x_s for part in parts]),
        value=torch.cat([part.value for part in parts]),
        parent_value=torch.cat([part.parent_value for part in parts]),
        final=torch.cat([part.final for part in parts]),
        policy_version=parts[0].policy_version,
        policy_checksum=parts[0].policy_checksum,
    )
