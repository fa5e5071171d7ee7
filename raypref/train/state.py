"""The learner's state as a value: what a checkpoint holds. All else follows from the experiment and its seed."""

from dataclasses import dataclass

from torch import Tensor

from raypref.core.weights import Weights
from raypref.train.learner import Learner


@dataclass(frozen=True)
class LearnerState:
    """Weights and optimizer."""

    history: dict[int, Weights]
    """The versions that rollouts may still ask for; the newest is the policy."""
    optimizer: dict[str, Tensor]
    """AdamW's exp_avg, exp_avg_sq and step as "exp_avg/PARAMETER" and so on; empty before the first update."""


def learner_state(learner: Learner) -> LearnerState:
    """A copy of the learner's state, on the CPU."""
    moments = {
        f"{moment}/{name}": value.detach().cpu().clone()
        for name, parameter in learner.denoiser.parameters.parameters.items()
        for moment, value in learner.optimizer.state.get(parameter, {}).items()
    }
    return LearnerState(dict(learner.history), moments)


def restore_learner(learner: Learner, state: LearnerState) -> None:
    """Makes a freshly built learner continue from `state`, bit for bit.

    Raises:
        WeightsError: where the state belongs to another set of parameters.
    """
    learner.denoiser.parameters.install(state.history[max(state.history)])
    learner.history = dict(state.history)
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
