"""What methods on labelled pictures have in common."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.regression import OwnSamples, Regression, divergence, noised, regression_drift
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.core.seeding import Key
from raypref.core.types import Loss, Preferences
from raypref.methods.base import Method

Own = Literal["none", "finished", "on_the_way"]


@dataclass(frozen=True)
class RegressionMethod(Method):
    """A method on a set of labelled pictures: `supervise` puts noise on them, `loss` turns the batch, and the outputs
    of policy and reference at it, into a number for each row. Neither is guided: the papers train the plain network."""

    reads: ClassVar[int] = 2
    """2: it is given pairs. 1: single pictures; `arms` counts those that the policy adds, too."""
    desirable_only: ClassVar[bool] = False
    """Whether it is given only those single pictures that are desirable."""
    own: ClassVar[Own] = "none"
    """What it needs of the policy's own drawing, for the prompts of its pictures. finished: a picture each, drawn as
    held-out ones are. on_the_way: a state of an unguided trajectory each, at one of the sampler's steps at random, and
    what the policy predicted there."""
    reference_free: ClassVar[bool] = False
    """Whether the loss does not read the reference."""

    def diet(self) -> str:
        """See `Method.diet`."""
        liked = "liked pictures" if self.desirable_only else "pictures, liked or not"
        given = "pairs of pictures" if self.reads == 2 else liked
        return {"none": given, "finished": f"{given}, own ones", "on_the_way": f"{given}, own trajectories"}[self.own]

    def rows_per_prompt(self) -> int:
        """See `Method.rows_per_prompt`."""
        return 1

    def row_name(self) -> str:
        """See `Method.row_name`."""
        return "pairs" if self.arms == 2 else "pictures"

    def states_per_row(self) -> int:
        """See `Method.states_per_row`."""
        return self.arms

    def recorded_steps(self) -> tuple[int, ...]:
        """See `Method.recorded_steps`."""
        return ()

    def latents_at_once(self) -> int:
        """See `Method.latents_at_once`."""
        return 1

    def needs_reference(self) -> bool:
        """See `Method.needs_reference`."""
        return not self.reference_free or self.kl_coef > 0

    def supervise(
        self, preferences: Preferences, own: OwnSamples | None, schedule: Schedule | FlowSchedule, key: Key
    ) -> Regression:
        """A row for each of the preferences. Time and noise are drawn under `key`, by `noised` unless a method knows
        better; `own` is there if asked for."""
        return noised(preferences, schedule, key)

    @abstractmethod
    def loss(
        self,
        policy: Float[Tensor, "A B C H W"],
        reference: Any,
        batch: Regression,
    ) -> Loss:
        """The loss of each row, taking the first arm for the winner. No gradient flows into `reference`, which has the
        policy's shape, and may be None where the method is `reference_free`."""

    def objective(
        self,
        policy: Float[Tensor, "A B C H W"],
        reference: Float[Tensor, "A B C H W"] | None,
        batch: Regression,
    ) -> Loss:
        """What is minimised: the loss and, with kl_coef, `raypref.core.regression.divergence` from the reference. The
        figures of `regression_drift` join the loss's own.

        Of a pair whose winner is only probable, as a tie's, it is the expected loss.
        """
        loss = self.loss(policy, reference, batch)
        per_example = loss.per_example
        if self.reads == 2 and bool((batch.label < 1).any()):
            turned = None if reference is None else reference.flip(0)
            other = self.loss(policy.flip(0), turned, batch.turned_round())
            per_example = torch.lerp(other.per_example, per_example, batch.label)
        if self.kl_coef > 0:
            assert reference is not None
            per_example = per_example + self.kl_coef * divergence(policy, reference)
        return Loss(per_example, loss.metrics | regression_drift(policy, reference, batch))


def check_positive(field: str, value: float, usual: float) -> None:
    """Raises ValueError where a hyper-parameter is not above 0; `usual` is the paper's."""
    if not value > 0:
        raise ValueError(f"{field} = {value}: use a positive number, such as {usual:g}.")
