"""What a preference method is: a frozen dataclass whose fields are its hyper-parameters, with two pure functions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from raypref.core.process import Gaussian
from raypref.core.types import Loss, Rollout, Search, Transitions


@dataclass(frozen=True)
class Method(ABC):
    """A preference method. Subclasses are final, one a file, and are found by their `name`.

    A method never sees networks, optimizers or processes: `supervise` turns what a search recorded into pairs, `loss`
    turns the pairs and the two Gaussians at them into a number a pair.
    """

    name: ClassVar[str]
    """The key in `[method] name = ...`."""
    paper: ClassVar[str]
    """arXiv id or venue."""
    neutral: ClassVar[float]
    """The loss of a pair when policy and reference agree."""

    search: Search = field(default_factory=Search)
    """How rollouts explore for it."""

    @abstractmethod
    def supervise(self, rollout: Rollout) -> Transitions:
        """Pairs from a rollout; ties and missing scores are dropped."""

    @abstractmethod
    def loss(self, policy: Gaussian, reference: Gaussian, batch: Transitions) -> Loss:
        """The loss of each pair. No gradient flows into `reference`."""
