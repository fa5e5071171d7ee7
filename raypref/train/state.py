"""The learner's state as a value: what a checkpoint holds. All else follows from the experiment and its seed."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from raypref.core.weights import Weights, checksum
from raypref.train.learner import Learner
from raypref.train.reference import ReferenceState


@dataclass(frozen=True)
class LearnerState:
    """Weights, optimizer and reference."""

    history: dict[int, Weights]
    """The versions that rollouts may still ask for; the newest is the policy."""
    optimizer: dict[str, Tensor]
    """AdamW's exp_avg, exp_avg_sq and step as "exp_avg/PARAMETER" and so on; empty before the first update."""
    reference: ReferenceState
    gradient_level: float
    """See `Learner.gradient_level`."""
    average: Float[Tensor, " n"] | None
    """See `Learner.average`."""

    def deployed(self) -> str:
        """The checksum of `Learner.deployed`."""
        return self.history[max(self.history)].manifest.checksum if self.average is None else checksum(self.average)


def learner_state(learner: Learner) -> LearnerState:
    """A copy of the learner's state, on the CPU."""
    moments = {
        f"{moment}/{name}": value.detach().cpu().clone()
        for name, parameter in learner.denoiser.parameters.parameters.items()
        for moment, value in learner.optimizer.state.get(parameter, {}).items()
    }
    reference, average = (
        None if flat is None else flat.detach().cpu().clone()
        for flat in (learner.reference.state.flat, learner.average)
    )
    return LearnerState(
        dict(learner.history),
        moments,
        replace(learner.reference.state, flat=reference),
        learner.gradient_level,
        average,
    )


def restore_learner(learner: Learner, state: LearnerState) -> None:
    """Makes a learner continue from `state`, bit for bit.

    Raises:
        WeightsError: where the state belongs to another set of parameters.
    """
    learner.denoiser.parameters.install(state.history[max(state.history)])
    learner.history = dict(state.history)
    learner.reference.restore(state.reference)
    learner.gradient_level = state.gradient_level
    learner.average = None if state.average is None else state.average.to(learner.denoiser.parameters.flat)
    learner.optimizer.state.clear()
    for name, parameter in learner.denoiser.parameters.parameters.items():
        moments = {
            key.partition("/")[0]: value.clone()
            for key, value in state.optimizer.items()
            if key.partition("/")[2] == name
        }
        if moments:
            on_device = {
                moment: value if moment == "step" else value.to(parameter.device) for moment, value in moments.items()
            }
            learner.optimizer.state[parameter] = on_device


def roll_back(learner: Learner, state: LearnerState, version: int) -> None:
    """Puts an earlier state in the place of the newest version. Older versions stay, for rollouts on their way."""
    good = state.history[max(state.history)]
    renamed = Weights(replace(good.manifest, version=version), good.flat.clone())  # a checkpoint may hold both
    kept = {known: weights for known, weights in learner.history.items() if known < version}
    restore_learner(learner, replace(state, history=kept | {version: renamed}))
