"""What a preference method is: a frozen dataclass whose fields are its hyper-parameters, with pure functions.

There are two kinds, by what they eat: a `StepMethod` eats rollouts and trains on reverse steps that happened
(`Transitions`); a `raypref.methods.regression.RegressionMethod` eats labelled pictures, and trains on noisy latents
with a target (`Regression`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from raypref.core.drift import drift
from raypref.core.process import Gaussian
from raypref.core.search import Search
from raypref.core.types import Loss, Rollout, Transitions


@dataclass(frozen=True)
class Method(ABC):
    """A preference method. Subclasses are final, one a file, and are found by their `name`.

    A method never sees networks, optimizers or processes: its `supervise` turns an iteration's experience into a batch,
    its `loss` turns the batch, and what policy and reference say of it, into a number for each row.
    """

    name: ClassVar[str]
    """The key in `[method] name = ...`."""
    paper: ClassVar[str]
    """arXiv id or venue."""

    arms: ClassVar[int] = 2
    """2: rows are pairs. 1: rows are single steps with an advantage, or single pictures."""

    coupled: ClassVar[bool] = False
    """Whether the loss of a row depends on the others: see `Regression.baseline`."""
    against_iterate: ClassVar[bool] = False
    """Whether the reference is the policy that drew the iteration's samples, unless [reference] lets it follow in
    another way."""

    kl_coef: float = 0.0
    """Weight of the divergence from the reference where the policy is asked, added to the loss; 0 switches it off."""
    timestep_power: float = 0.0
    """Weights lambda(t) of the margin, inside the sigmoid: see `raypref.core.timestep_weight`; 0 weighs all alike."""

    def __post_init__(self) -> None:
        if self.kl_coef < 0:
            raise ValueError(f"kl_coef = {self.kl_coef}: use 0 (off) or more, such as 0.01.")

    @abstractmethod
    def diet(self) -> str:
        """What it learns from, in a few words."""

    @abstractmethod
    def rows_per_prompt(self) -> int:
        """Rows of a batch that one prompt gives, where none is dropped."""

    @abstractmethod
    def row_name(self) -> str:
        """What the rows of a batch are called, in the plural."""

    @abstractmethod
    def recorded_steps(self) -> tuple[int, ...]:
        """The steps of the sampler whose transitions are trained on."""

    @abstractmethod
    def states_per_row(self) -> int:
        """M: where policy and reference are asked for a row of the batch."""

    @abstractmethod
    def latents_at_once(self) -> int:
        """How many latents of a prompt a sampler denoises side by side."""

    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether the reference must be asked; otherwise `objective` is given None in its place."""

    @abstractmethod
    def objective(self, policy: Any, reference: Any, batch: Any) -> Loss:
        """What is minimised: the loss, and the add-ons that all methods have. `policy` and `reference` are what
        `Batch.answer` makes of the networks' outputs."""


@dataclass(frozen=True)
class StepMethod(Method):
    """A method on rollouts: `supervise` turns what a search recorded into a batch, `loss` turns the batch and the two
    Gaussians at it into a number for each row."""

    search: Search = field(default_factory=Search)
    """How rollouts explore for it."""

    def diet(self) -> str:
        """See `Method.diet`."""
        return f"{self.search.shape}s of {self.search.candidates} candidates, by {self.search.step_reward}"

    def rows_per_prompt(self) -> int:
        """See `Method.rows_per_prompt`."""
        return len(self.search.recorded()) * (1 if self.arms == 2 else self.search.candidates)

    def row_name(self) -> str:
        """See `Method.row_name`."""
        return "pairs" if self.arms == 2 else "steps"

    def recorded_steps(self) -> tuple[int, ...]:
        """See `Method.recorded_steps`."""
        return self.search.recorded()

    def states_per_row(self) -> int:
        """See `Method.states_per_row`."""
        return 1 if self.search.shares_parent() else self.arms

    def latents_at_once(self) -> int:
        """See `Method.latents_at_once`."""
        return self.search.candidates

    def needs_reference(self) -> bool:
        """See `Method.needs_reference`."""
        return True

    @abstractmethod
    def supervise(self, rollout: Rollout) -> Transitions:
        """Pairs, or single steps with an advantage; ties and missing scores are dropped and counted."""

    @abstractmethod
    def loss(self, policy: Gaussian, reference: Gaussian, batch: Transitions) -> Loss:
        """The loss of each row. No gradient flows into `reference`."""

    def objective(self, policy: Gaussian, reference: Gaussian, batch: Transitions) -> Loss:
        """What is minimised: the loss and, with kl_coef, the divergence from the reference in closed form:

        kl_coef |mean - mean_ref|^2 / (2 sigma^2 C H W), averaged over a row's parents. No further forward is needed.
        The figures of `raypref.core.drift` join the loss's own.
        """
        loss = self.loss(policy, reference, batch)
        per_example = loss.per_example
        if self.kl_coef > 0:
            per_example = per_example + self.kl_coef * policy.kl(reference).mean(0)
        return Loss(per_example, loss.metrics | drift(policy, reference, batch))
