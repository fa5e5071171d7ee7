"""The learner's work: turn rollouts into pairs, and pairs into a new version of the policy."""

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.seeding import Key
from raypref.core.supervise import step_reward
from raypref.core.types import Loss, Rollout, Transitions, concat_rollouts
from raypref.core.weights import Weights, WeightsError
from raypref.models.base import Denoiser
from raypref.train.experiment import Experiment
from raypref.train.sampler import SampledRollout


@dataclass(frozen=True)
class UpdateReport:
    """What an iteration's updates did."""

    metrics: dict[str, float]
    gain_by_step: dict[int, float]
    """Recorded step -> mean gain Q(x_s) - Q(x_t) of all candidates; empty where the step reward is not the gain."""
    pairs: int
    seconds: dict[str, float]
    """Role -> busy seconds: denoising and scoring (as the samplers waited for it), learning."""


class NoPairs(RuntimeError):
    """An iteration without a single preference."""


class Learner:
    """The policy, its optimizer, and the versions that samplers may still use."""

    def __init__(self, denoiser: Denoiser, experiment: Experiment) -> None:
        self.denoiser, self.experiment = denoiser, experiment
        self.method = experiment.method
        self.process = experiment.sampling.process(denoiser.schedule)
        self.process.check_density(self.method.search.steps)
        settings = experiment.optimizer
        self.optimizer = torch.optim.AdamW(
            denoiser.parameters.parameters.values(),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.adam_weight_decay,
            foreach=False,
        )
        self.history: dict[int, Weights] = {0: denoiser.parameters.take(0)}

    def weights(self, version: int) -> Weights:
        """A version that rollouts may still ask for: the newest or, with lag, the one before."""
        return self.history[version]

    def update(self, iteration: int, sampled: list[SampledRollout]) -> UpdateReport:
        """Trains on an iteration's rollouts and makes version `iteration + 1`.

        Raises:
            WeightsError: where the rollouts were not drawn with the weights that this iteration calls for.
            NoPairs: where every pair is a tie or lacks a score.
        """
        started = time.perf_counter()
        rollout = concat_rollouts([part.rollout for part in sampled])
        self._check_policy(iteration, rollout)
        pairs = self.method.supervise(rollout)
        if len(pairs) == 0:
            raise NoPairs(
                f"iteration {iteration}: every pair is a tie or has no score. Is the reward constant on these pictures?"
            )
        metrics = self._train(iteration, pairs)
        self._remember(iteration + 1)
        offered = rollout.value.shape[0] * rollout.value.shape[2]
        metrics |= {
            "reward": float(_last_scores(rollout).nanmean()),
            "credit_win": float(pairs.credit[0].mean()),
            "credit_lose": float(pairs.credit[1].mean()),
            "dropped_pairs": float(offered - len(pairs)),
        }
        return UpdateReport(
            metrics=metrics,
            gain_by_step=_gain_by_step(rollout) if self.method.search.step_reward == "delta_parent" else {},
            pairs=len(pairs),
            seconds={
                "denoising": sum(part.seconds_denoising for part in sampled),
                "scoring": sum(part.seconds_scoring for part in sampled),
                "learning": time.perf_counter() - started,
            },
        )

    def _check_policy(self, iteration: int, rollout: Rollout) -> None:
        wanted = self.history[self.experiment.policy_version(iteration)].manifest
        found = (rollout.policy_version, rollout.policy_checksum)
        if found != (wanted.version, wanted.checksum):
            raise WeightsError(
                f"iteration {iteration} needs rollouts of policy version {wanted.version} ({wanted.checksum}), "
                f"but these were drawn with version {found[0]} ({found[1]})"
            )

    def _train(self, iteration: int, pairs: Transitions) -> dict[str, float]:
        settings = self.experiment.optimizer
        key = Key(self.experiment.run.seed)("train", iteration)
        totals: dict[str, float] = defaultdict(float)
        norms = []
        for epoch in range(settings.num_inner_epochs):
            for rows in key(epoch).permutation(len(pairs)).split(settings.batch_size):
                self.optimizer.zero_grad(set_to_none=True)
                for micro in rows.split(settings.micro_batch_size):
                    loss = self.loss(pairs.take(micro))
                    (loss.per_example.sum() / len(rows)).backward()
                    for name, value in ({"loss": loss.per_example.detach()} | loss.metrics).items():
                        totals[name] += float(value.sum())
                norms.append(self._step())
        count = len(pairs) * settings.num_inner_epochs
        return {name: total / count for name, total in totals.items()} | {
            "grad_norm": sum(norms) / len(norms),
            "updates": float(len(norms)),
        }

    def _step(self) -> float:
        norm = torch.nn.utils.clip_grad_norm_(
            self.denoiser.parameters.parameters.values(),
            self.experiment.optimizer.max_grad_norm,
            error_if_nonfinite=True,
            foreach=False,
        )
        self.optimizer.step()
        return float(norm)

    def loss(self, batch: Transitions) -> Loss:
        """The method's loss on a batch: one policy and one reference forward for each stored parent."""
        policy = self._out(batch)
        with torch.no_grad(), self.denoiser.reference():
            reference = self._out(batch)
        x_t = batch.x_t.to(policy.device)
        moved = Transitions(
            batch.prompts, batch.steps, x_t, batch.x_s.to(x_t), batch.credit.to(x_t), batch.weight.to(x_t)
        )
        return self.method.loss(
            self.process.reverse(batch.steps, x_t, policy), self.process.reverse(batch.steps, x_t, reference), moved
        )

    def _out(self, batch: Transitions) -> Float[Tensor, "M B C H W"]:
        states = len(batch.x_t)
        t = self.process.t[batch.steps].repeat(states)
        out = self.denoiser.predict(
            batch.x_t.flatten(0, 1), t, batch.prompts * states, self.experiment.sampling.guidance_scale
        )
        return out.unflatten(0, (states, len(batch)))

    def _remember(self, version: int) -> None:
        self.history[version] = self.denoiser.parameters.take(version)
        for old in [known for known in self.history if known < version - self.experiment.run.lag]:
            del self.history[old]

    def export_lora(self, folder: Path) -> None:
        """Writes the newest policy for diffusers."""
        self.denoiser.export_lora(folder)


def _last_scores(rollout: Rollout) -> Float[Tensor, "P G"]:
    """The scores nearest to the finished picture."""
    return rollout.value[..., -1] if rollout.final.isnan().all() else rollout.final


def _gain_by_step(rollout: Rollout) -> dict[int, float]:
    gain = step_reward(rollout, "delta_parent")  # [P G S]
    return {int(step): float(gain[..., row].nanmean()) for row, step in enumerate(rollout.steps)}
