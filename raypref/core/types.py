"""The values that flow between the stages of a run. All frozen; latents are float32.

    prompts -> rollout(search) -> Rollout -> method.supervise -> Transitions -> method.loss -> Loss -> optimizer
    data -> Preferences (and OwnSamples) -> method.supervise -> Regression -> method.loss -> Loss -> optimizer

Axes: A arms (WIN, LOSE of a pair; one alone for a policy gradient) | B batch | M states (1 when siblings share their
parent) | P prompts | G candidates | S recorded steps | R rewards | C H W latent. Only prompts and latents cross a
process border, never embeddings or modules.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from raypref.core.process import Gaussian, Process

WIN, LOSE = 0, 1


@dataclass(frozen=True)
class Rollout:
    """What a search recorded: parents, children and their scores. Scores are NaN where the search did not ask for
    them, or where the reward failed."""

    prompts: tuple[str, ...]
    """P."""
    steps: Int[Tensor, " S"]
    """Rows of the process table."""
    x_t: Float[Tensor, "P M S C H W"]
    x_s: Float[Tensor, "P G S C H W"]
    value: Float[Tensor, "P G S R"]
    """Q(x_s) = reward of x_0-hat(x_s)."""
    parent_value: Float[Tensor, "P M S R"]
    """Q(x_t)."""
    next_value: Float[Tensor, "P G S R"]
    """Q of a state drawn one step further down from x_s: the look-ahead."""
    final: Float[Tensor, "P G R"]
    """The rewards of the finished picture of a chain; NaN for trees."""
    mean: Float[Tensor, "P M S C H W"] | None
    """The mean of the policy's step at each parent, where the search keeps it: what a likelihood ratio to the policy
    that drew the rollout needs."""
    policy_version: int
    """The version of the weights that drew it."""
    policy_checksum: str
    """Checksum of the live weights that drew it: the learner refuses another."""


@dataclass(frozen=True)
class Preferences:
    """A batch of clean latents that somebody has labelled."""

    prompts: tuple[str, ...]
    """B; empty where prompt dropout fell."""
    x_0: Float[Tensor, "A B C H W"]
    """A = 2: pairs, of which x_0[WIN] is the preferred one. A = 1: single pictures."""
    label: Float[Tensor, " B"]
    """Of pairs: the probability that x_0[WIN] is preferred, 1, or 0.5 for a tie. Of single pictures: 1 is desirable, 0
    undesirable."""
    items: Int[Tensor, " B"]
    """The rows' addresses in their set: randomness that belongs to a row is addressed by it."""

    def __len__(self) -> int:
        return len(self.prompts)


class Batch(ABC):
    """What updates train on, whichever kind of supervision it is: states at which the network is asked, and what a
    loss needs beside its answers. Subclasses are frozen dataclasses with these fields."""

    prompts: tuple[str, ...]
    x_t: Tensor
    """[M B C H W]: where the network is asked."""
    weight: Tensor
    """[B]: lambda(t), see `raypref.core.timestep_weight`."""
    reference_out: Tensor | None
    """[M B C H W]: the reference's output at x_t where it has been computed before."""
    reference_version: int
    """The version of the reference that computed it."""
    dropped: dict[str, int]
    """Why, and how often, there is no row."""

    def __len__(self) -> int:
        return len(self.prompts)

    @abstractmethod
    def take(self, rows: Int[Tensor, " n"]) -> "Batch":
        """The given rows of the batch, in that order."""

    @abstractmethod
    def to(self, like: Tensor) -> "Batch":
        """The tensors that a loss reads, on the device of `like`."""

    @abstractmethod
    def with_reference(self, out: Float[Tensor, "M B C H W"] | None, version: int) -> "Batch":
        """The batch with what the reference of that version says of it; None: not yet."""

    @abstractmethod
    def places(self) -> Int[Tensor, " B"]:
        """What figures are told apart by, along the way from noise (0) to picture."""

    @abstractmethod
    def times(self, process: Process) -> Num[Tensor, " B"]:
        """The time of each row: what the network is fed."""

    @abstractmethod
    def answer(self, process: Process, out: Float[Tensor, "M B C H W"]) -> Gaussian | Float[Tensor, "M B C H W"]:
        """The network's output at x_t as a loss of this kind reads it."""


@dataclass(frozen=True)
class Transitions(Batch):
    """Reverse steps that happened, to be trained on. Arm order is (WIN, LOSE)."""

    prompts: tuple[str, ...]
    """B."""
    steps: Int[Tensor, " B"]
    x_t: Float[Tensor, "M B C H W"]
    """M = 1: the arms share their parent, and one forward serves both."""
    x_s: Float[Tensor, "A B C H W"]
    credit: Float[Tensor, "A B"]
    """The step reward that ranked the arms (of several rewards, the first), or the advantage of a single arm."""
    weight: Float[Tensor, " B"]
    """lambda(t): multiplies the margin inside the sigmoid, or the advantage."""
    mean: Float[Tensor, "M B C H W"] | None = None
    """See `Rollout.mean`."""
    reference_out: Float[Tensor, "M B C H W"] | None = None
    """The reference's output at x_t where it has been computed before."""
    reference_version: int = 0
    """The version of the reference that computed it."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Why, and how often, a prompt and step gave no preference."""

    def take(self, rows: Int[Tensor, " n"]) -> "Transitions":
        """See `Batch.take`."""
        return replace(
            self,
            prompts=tuple(self.prompts[int(row)] for row in rows),
            steps=self.steps[rows],
            x_t=self.x_t[:, rows],
            x_s=self.x_s[:, rows],
            credit=self.credit[:, rows],
            weight=self.weight[rows],
            mean=None if self.mean is None else self.mean[:, rows],
            reference_out=None if self.reference_out is None else self.reference_out[:, rows],
        )

    def to(self, like: Tensor) -> "Transitions":
        """See `Batch.to`."""
        return replace(
            self,
            x_t=self.x_t.to(like),
            x_s=self.x_s.to(like),
            credit=self.credit.to(like),
            weight=self.weight.to(like),
            mean=None if self.mean is None else self.mean.to(like),
        )

    def with_reference(self, out: Float[Tensor, "M B C H W"] | None, version: int) -> "Transitions":
        """See `Batch.with_reference`."""
        return replace(self, reference_out=out, reference_version=version)

    def places(self) -> Int[Tensor, " B"]:
        """The recorded steps."""
        return self.steps

    def times(self, process: Process) -> Num[Tensor, " B"]:
        """See `Batch.times`."""
        return process.t[self.steps]

    def answer(self, process: Process, out: Float[Tensor, "M B C H W"]) -> Gaussian:
        """The Gaussian of the step."""
        return process.reverse(self.steps, self.x_t, out)


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
        next_value=torch.cat([part.next_value for part in parts]),
        final=torch.cat([part.final for part in parts]),
        mean=torch.cat([part.mean for part in parts if part.mean is not None]) if parts[0].mean is not None else None,
        policy_version=parts[0].policy_version,
        policy_checksum=parts[0].policy_checksum,
    )
