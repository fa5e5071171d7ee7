"""What a preference method is: a frozen dataclass whose fields are its hyper-parameters, with two pure functions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from raypref.core.drift import drift
from raypref.core.process import Gaussian
from raypref.core.search import Search
from raypref.core.types import Loss, Rollout, Transitions


@dataclass(frozen=True)
class Method(ABC):
    """A preference method. Subclasses are final, one a file, and are found by their `name`.

    A method never sees networks, optimizers or processes: `supervise` turns what a search recorded into a batch, `loss`
    turns the batch and the two Gaussians at it into a number for each row.
    """

    name: ClassVar[str]
    """The key in `[method] name = ...`."""
    paper: ClassVar[str]
    """arXiv id or venue."""

    arms: ClassVar[int] = 2
    """2: rows are pairs. 1: rows are single steps with an advantage."""

    search: Search = field(default_factory=Search)
    """How rollouts explore for it."""
    kl_coef: float = 0.0
    """Weight of KL(policy || reference) at the recorded states, added to the loss; 0 switches it off."""
    timestep_power: float = 0.0
    """Weights lambda(t) of the margin, inside the sigmoid: see `raypref.core.timestep_weight`; 0 weighs all alike."""

    def __post_init__(self) -> None:
        if self.kl_coef < 0:
            raise ValueError(f"kl_coef = {self.kl_coef}: use 0 (off) or more, such as 0.01.")

    def rows_per_prompt(self) -> int:
        """Rows of a batch that one prompt gives, where none is dropped."""
        return len(self.search.recorded()) * (1 if self.arms == 2 else self.search.candidates)

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
