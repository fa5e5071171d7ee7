"""What an iteration teaches: rollouts, or labelled pictures and what the policy draws itself, become one batch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from raypref.core.process import Process
from raypref.core.regression import OwnSamples, concat_own
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.core.search import CHILD, NEEDS, PARENT
from raypref.core.seeding import Key
from raypref.core.supervise import credit
from raypref.core.timestep_weight import timestep_weight
from raypref.core.types import Batch, Rollout, concat_rollouts
from raypref.methods.base import StepMethod
from raypref.methods.regression import RegressionMethod
from raypref.models.base import Denoiser
from raypref.train.experiment import Experiment
from raypref.train.guards import check_rewards
from raypref.train.preferences import preferences
from raypref.train.sampler import SampledRollout
from raypref.train.scorer import together
from raypref.train.stopped import StoppedRun


class NoPairs(StoppedRun):
    """An iteration without a single preference."""


@dataclass(frozen=True)
class Lesson:
    """The batch of an iteration, and what is known of it before anything is trained."""

    batch: Batch
    metrics: dict[str, float] = field(default_factory=dict)
    by_step: dict[str, dict[int, float]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    """Why, and of how many pictures, a reward gave no score."""


class Teacher(ABC):
    """Makes an iteration's lesson of what samplers have drawn for it, by the method's own `supervise`."""

    guidance_scale: float
    """With which policy and reference are asked in training."""

    @abstractmethod
    def lesson(self, iteration: int, sampled: list[SampledRollout]) -> Lesson:
        """The batch. It is a function of the experiment, the iteration and what was drawn."""


def teacher(experiment: Experiment, process: Process, denoiser: Denoiser) -> Teacher:
    """The teacher for the kind of method."""
    method = experiment.method
    if isinstance(method, RegressionMethod):
        return RegressionTeacher(experiment, method, process, denoiser)
    assert isinstance(method, StepMethod), "there are two kinds"
    process.check_density(method.recorded_steps())
    return StepTeacher(experiment, method, process, denoiser.schedule)


class StepTeacher(Teacher):
    """Of rollouts."""

    def __init__(
        self, experiment: Experiment, method: StepMethod, process: Process, schedule: Schedule | FlowSchedule
    ) -> None:
        self.experiment, self.method, self.process, self.schedule = experiment, method, process, schedule
        self.guidance_scale = experiment.sampling.guidance_scale

    def lesson(self, iteration: int, sampled: list[SampledRollout]) -> Lesson:
        """See `Teacher.lesson`.

        Raises:
            BadRewards: where too many pairs lack a score or are tied.
            NoPairs: where no pair is left.
        """
        rollout = concat_rollouts([part.rollout for part in sampled if isinstance(part.rollout, Rollout)])
        pairs = self.method.supervise(rollout)
        failures = together(*(part.failures for part in sampled))
        check_rewards(self.experiment.guard, iteration, pairs.dropped, len(pairs), failures)
        if len(pairs) == 0:
            raise NoPairs(
                f"iteration {iteration}: every pair is a tie, incomparable, below the threshold, or has no score "
                f"({pairs.dropped}). Does the reward tell these pictures apart?"
            )
        trained = self.process.t[list(self.method.recorded_steps())]
        total = self.schedule.num_train_timesteps
        weight = timestep_weight(self.process.t[pairs.steps], trained, total, self.method.timestep_power)
        dropped = {f"dropped_{why}": float(count) for why, count in pairs.dropped.items()}
        candidates = sum(dropped.values()) + len(pairs)
        metrics = dropped | {
            "reward": float(_last_scores(rollout).nanmean()),
            "credit_win": float(pairs.credit[0].mean()),
            "credit_lose": float(pairs.credit[-1].mean()),
            "dropped_share": sum(dropped.values()) / candidates,
            "missing_share": pairs.dropped.get("unscored", 0) / candidates,
        }
        return Lesson(replace(pairs, weight=pairs.weight * weight), metrics, self._gain_by_step(rollout), failures)

    def _gain_by_step(self, rollout: Rollout) -> dict[str, dict[int, float]]:
        if not {PARENT, CHILD} <= set(NEEDS[self.method.search.step_reward]):
            return {}
        gain = credit("delta_cross", rollout.parent_value, rollout.value, rollout.next_value)[..., 0]  # [P G S]
        return {"gain": {int(step): float(gain[..., row].nanmean()) for row, step in enumerate(rollout.steps)}}


def _last_scores(rollout: Rollout) -> Float[Tensor, "P G"]:
    """The first reward's scores nearest to the finished picture."""
    return (rollout.value[:, :, -1] if rollout.final.isnan().all() else rollout.final)[..., 0]


class RegressionTeacher(Teacher):
    """Of labelled pictures, read here: what crosses the border from samplers is only what they have drawn."""

    guidance_scale = 1.0

    def __init__(self, experiment: Experiment, method: RegressionMethod, process: Process, denoiser: Denoiser) -> None:
        self.experiment, self.method = experiment, method
        self.schedule, self.latent_shape = denoiser.schedule, denoiser.latent_shape
        self.times = process.t if method.own == "on_the_way" else denoiser.schedule.training_times()
        """What the rows' times are drawn from, uniformly."""

    def lesson(self, iteration: int, sampled: list[SampledRollout]) -> Lesson:
        """See `Teacher.lesson`.

        Raises:
            StoppedRun: where the set is not there, or does not hold what the method needs.
        """
        found = preferences(self.experiment, self.method, iteration)
        if found.x_0.shape[2:] != self.latent_shape:
            raise StoppedRun(
                f"data.path = {self.experiment.data.path!r}: its latents are of shape {list(found.x_0.shape[2:])}, the "
                f"model's of {list(self.latent_shape)}; prepare the set for this model, at its resolution"
            )
        drawn = [part.rollout for part in sampled if isinstance(part.rollout, OwnSamples)]
        own = concat_own(drawn) if drawn else None
        key = Key(self.experiment.run.seed)("regression", iteration)
        batch = self.method.supervise(found, own, self.schedule, key)
        power, total = self.method.timestep_power, self.schedule.num_train_timesteps
        weight = timestep_weight(batch.t, self.times, total, power)
        return Lesson(replace(batch, weight=batch.weight * weight))
