"""The local runtime with the toy denoiser and a toy decoder: whole runs in a blink."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.search import Search
from raypref.methods.base import Method
from raypref.methods.rdpo import RDPO
from raypref.models.base import Decoder
from raypref.rewards.base import Reward
from raypref.rewards.colorfulness import Colorfulness
from raypref.train.checkpoint import TrainState
from raypref.train.experiment import (
    CheckpointConfig,
    EvaluateConfig,
    Experiment,
    OptimizerConfig,
    RunConfig,
    SamplingConfig,
)
from raypref.train.learner import Learner, UpdateReport
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime, LocalScoring
from raypref.train.sampler import Sampler
from raypref.train.scorer import Scorer
from tests.recording import Recording
from tests.toys import ToyDenoiser


class ToyDecoder(Decoder):
    """The 2 x 2 x 2 latent as red and green, and their product as blue."""

    def decode(self, latents: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 3 height width"]:
        blue = latents[:, :1] * latents[:, 1:]
        return torch.sigmoid(0.2 * torch.cat([latents, blue], 1)).repeat_interleave(4, 2).repeat_interleave(4, 3)


class ToyRuntime(LocalRuntime):
    """`trips`: iteration -> alarms that its update shall report. `watched`: rewards that are only looked at."""

    def __init__(
        self,
        experiment: Experiment,
        trips: dict[int, dict[str, int]] | None = None,
        rewards: tuple[Reward, ...] = (Colorfulness(),),
        watched: tuple[Reward, ...] = (),
    ) -> None:
        self.trips = trips or {}
        self.learner = Learner(ToyDenoiser(), experiment)
        scoring = LocalScoring(Scorer(ToyDecoder(), rewards, watched, experiment.guard.reward_timeout))
        self.sampler = Sampler(ToyDenoiser(), experiment, scoring)
        self._requested = {}

    def update(self, iteration: int) -> UpdateReport:
        report = super().update(iteration)
        return replace(report, alarms=report.alarms | self.trips.get(iteration, {}))


DEFAULT = RDPO(beta=10.0, search=Search(steps=(0, 2, 4)))


def toy_experiment(method: Method = DEFAULT, lag: int = 0, iterations: int = 4, **sections: object) -> Experiment:
    """Four prompts an iteration in chunks of two, six steps."""
    defaults: dict[str, object] = {
        "run": RunConfig(iterations=iterations, prompts_per_iteration=4, chunk_size=2, lag=lag),
        "sampling": SamplingConfig(num_inference_steps=6),
        "optimizer": OptimizerConfig(learning_rate=1e-2, batch_size=6, micro_batch_size=3),
        "evaluate": EvaluateConfig(every=0, rewards=()),
        "checkpoint": CheckpointConfig(every=1),
        "prompts": ("a", "d", "o"),
        "heldout_prompts": ("f",),
    }
    return Experiment(method=method, **(defaults | sections))


def toy_run(
    experiment: Experiment, trips: dict[int, dict[str, int]] | None = None, resumed: TrainState | None = None
) -> tuple[Recording, ToyRuntime]:
    """A run to its end."""
    seen, runtime = Recording(), ToyRuntime(experiment, trips)
    train(experiment, runtime, seen, resumed)
    return seen, runtime
