"""The learner's work: turn what an iteration teaches into a new version of the policy."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.moving_average import follow
from raypref.core.regression import Regression, gain
from raypref.core.seeding import Key
from raypref.core.types import Batch, Loss, Transitions
from raypref.core.weights import Weights, WeightsError, checksum
from raypref.models.base import Denoiser
from raypref.train.canary import Canary
from raypref.train.exchange import Alone, Exchange, Rows, Values
from raypref.train.experiment import Experiment
from raypref.train.lesson import teacher
from raypref.train.out_of_memory import explaining_out_of_memory
from raypref.train.reference import Reference
from raypref.train.sampler import SAMPLER_SECONDS, SampledRollout
from raypref.train.tally import Tally


@dataclass(frozen=True)
class UpdateReport:
    """What an iteration's updates did."""

    metrics: dict[str, float]
    by_step: dict[str, dict[int, float]]
    """Metric -> recorded step -> its mean there; "gain" is Q(x_s) - Q(x_t) of all candidates, where both are scored."""
    alarms: dict[str, int]
    """Guard -> how often it was tripped."""
    failures: dict[str, int]
    """Why, and of how many pictures, a reward gave no score."""
    pairs: int
    seconds: dict[str, float]
    """SAMPLER_SECONDS and learning."""
    syncs: int
    """How often a sampler installed a version of the weights and proved it. Like the seconds, it depends on who was
    faster, and is no part of the numbers."""


WARM_UP = 10
"""Updates before the gradient's level is known well enough to call anything a spike."""


class Learner:
    """The policy, its optimizer, and the versions that samplers may still use."""

    def __init__(self, denoiser: Denoiser, experiment: Experiment) -> None:
        self.denoiser, self.experiment = denoiser, experiment
        self.method = experiment.method
        self.process = experiment.sampling.process(denoiser.schedule)
        self.teacher = teacher(experiment, self.process, denoiser)
        settings = experiment.optimizer
        self.optimizer = torch.optim.AdamW(
            denoiser.parameters.parameters.values(),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.adam_weight_decay,
            foreach=False,
        )
        self.reference = Reference(denoiser, experiment.reference)
        self._canary = Canary(denoiser, self.process, experiment.sampling.guidance_scale)
        self.exchange: Exchange = Alone()
        """With the other ranks, where there are any: see `raypref.train.ranks`."""
        self.gradient_level = math.nan
        """Running level of the gradient's norm; NaN before the first update."""
        self.history: dict[int, Weights] = {0: denoiser.parameters.take(0)}
        self._fresh = self.history[0].manifest.checksum
        self.average = denoiser.parameters.flat.detach().clone() if settings.ema_decay else None
        """The moving average of the weights, where there is one. It is replaced, never written to: what `deployed`
        gives, and checkpoints, may share its memory."""

    def weights(self, version: int) -> Weights:
        """A version that rollouts may still ask for, the newest or, with lag, the one before; with its canary."""
        found = self.history[version]
        if found.canary is None:
            found = self.history[version] = self._with_canary(found)
        return found

    def deployed(self) -> Weights:
        """What users are given of the newest version: its moving average, or else itself; with its canary."""
        newest = max(self.history)
        if self.average is None:
            return self.weights(newest)
        flat = self.average.cpu()
        manifest = replace(self.history[newest].manifest, checksum=checksum(flat))
        return self._with_canary(Weights(manifest, flat))

    def _with_canary(self, weights: Weights) -> Weights:
        with self.denoiser.parameters.wearing(weights.flat):
            return replace(weights, canary=self._canary.sing())

    @explaining_out_of_memory("learner")
    def update(self, iteration: int, sampled: list[SampledRollout]) -> UpdateReport:
        """Trains on an iteration's rollouts and makes version `iteration + 1`.

        Raises:
            WeightsError: where the rollouts were not drawn with the weights that this iteration calls for.
            StoppedRun: where the iteration cannot be learned from; nothing has been trained on then.
            RanksDiffer: where this and the other ranks have not come to the same weights; there is no new version then.
        """
        started = time.perf_counter()
        self._check_policy(iteration, sampled)
        lesson = self.teacher.lesson(iteration, sampled)
        if self.method.against_iterate and self.experiment.reference.update == "frozen":
            self.reference.become(self.history[self.experiment.policy_version(iteration)].flat)
        with self.denoiser.at_work():
            metrics, by_step, alarms = self._train(iteration, lesson.batch)
        self._remember(iteration + 1)
        return UpdateReport(
            metrics=metrics | lesson.metrics,
            by_step=by_step | lesson.by_step,
            alarms=alarms,
            failures=lesson.failures,
            pairs=len(lesson.batch),
            seconds={name: sum((part.seconds.get(name, 0.0) for part in sampled), 0.0) for name in SAMPLER_SECONDS}
            | {"learning": time.perf_counter() - started},
            syncs=sum(part.syncs for part in sampled),
        )

    def _check_policy(self, iteration: int, sampled: list[SampledRollout]) -> None:
        wanted = self.history[self.experiment.policy_version(iteration)].manifest
        for part in sampled:
            found = (part.rollout.policy_version, part.rollout.policy_checksum)
            if found != (wanted.version, wanted.checksum):
                raise WeightsError(
                    f"iteration {iteration} needs rollouts of policy version {wanted.version} ({wanted.checksum}), "
                    f"but these were drawn with version {found[0]} ({found[1]})"
                )

    def _train(
        self, iteration: int, batch: Batch
    ) -> tuple[dict[str, float], dict[str, dict[int, float]], dict[str, int]]:
        settings = self.experiment.optimizer
        key = Key(self.experiment.run.seed)("train", iteration)
        learning_rate = settings.learning_rate_at(iteration, self.experiment.run.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        tally, norms, alarms = Tally(), [], Counter[str]()
        for epoch in range(settings.num_inner_epochs):
            for rows in key(epoch).permutation(len(batch)).split(settings.batch_size):
                if settings.num_inner_epochs > 1:
                    batch = self._with_reference(batch)
                self.optimizer.zero_grad(set_to_none=True)
                self._backward(batch.take(rows), tally)
                norms.append(self._step(alarms))
        finite = [norm for norm in norms if math.isfinite(norm)]
        metrics = tally.means() | {
            "grad_norm": sum(finite) / len(finite) if finite else math.nan,
            "updates": float(len(norms)),
            "learning_rate": learning_rate,
        }
        return metrics, tally.means_by_step(), dict(alarms)

    def _backward(self, batch: Batch, tally: Tally) -> None:
        """The gradient of an update's batch, in micro-batches."""
        parts = torch.arange(len(batch)).split(self.experiment.optimizer.micro_batch_size)
        if self.method.coupled and len(parts) > 1:
            batch = self._with_baseline(batch, parts)

        def work(rows: Rows) -> Values:
            loss = self.loss(batch.take(rows))
            (loss.per_example.sum() / len(batch)).backward()
            values = {"loss": loss.per_example} | loss.metrics
            return {name: value.detach() for name, value in values.items()}

        found = self.exchange.each_with_gradient(self.denoiser.parameters, parts, work)
        for rows, values in zip(parts, found, strict=True):
            tally.add(batch.places()[rows], values)

    def _with_baseline(self, batch: Batch, parts: Sequence[Rows]) -> Batch:
        """The batch with the mean gain of all its rows, by a pass of all ranks without gradients. The reference's
        outputs serve both passes."""
        batch = self._with_reference(batch)
        assert isinstance(batch, Regression), "only of outputs there is a gain"

        @torch.no_grad()
        def work(rows: Rows) -> Values:
            policy, reference, part = self._answers(batch.take(rows))
            assert isinstance(part, Regression)
            return {"gain": gain(policy, reference, part).mean(0).double().cpu()}

        found = torch.cat([values["gain"] for values in self.exchange.each(parts, work)])
        return replace(batch, baseline=found.mean().float().expand(len(batch)))

    def _step(self, alarms: Counter[str]) -> float:
        """One optimizer update, unless the gradient is not finite; the gradient's norm."""
        norm = float(
            torch.nn.utils.clip_grad_norm_(
                self.denoiser.parameters.parameters.values(), self.experiment.optimizer.max_grad_norm, foreach=False
            )
        )
        if not math.isfinite(norm):
            alarms["nonfinite"] += 1
            return norm
        level = norm if math.isnan(self.gradient_level) else self.gradient_level
        if self.reference.state.updates >= WARM_UP and norm > self.experiment.guard.spike_factor * level:
            alarms["gradient_spike"] += 1
        self.gradient_level = 0.9 * level + 0.1 * norm
        self.optimizer.step()
        self.reference.after_update()
        if self.average is not None:
            live, decay = self.denoiser.parameters.flat.detach(), self.experiment.optimizer.ema_decay
            self.average = follow(self.average, live, self.reference.state.updates, decay)
        return norm

    def loss(self, batch: Batch) -> Loss:
        """The method's objective on a batch: one policy and one reference forward for each stored state.

        Raises:
            StaleReference: where the batch caches the output of an older reference.
        """
        if self.experiment.run.fused_sampling:
            return self._fused_loss(batch)
        return self.method.objective(*self._answers(batch))

    def _answers(self, batch: Batch) -> tuple[Any, Any, Batch]:
        """What policy and reference say of a batch, None where the reference is not asked; and the batch, beside them
        on their device."""
        # The reference first: it borrows the policy's parameters, which the policy's graph must find unchanged.
        reference: Any = self._reference_out(batch) if self.method.needs_reference() else None
        batch = batch.to(self.denoiser.parameters.flat)
        if reference is not None:
            reference = batch.answer(self.process, reference.to(batch.x_t))
        return batch.answer(self.process, self._out(batch)), reference, batch

    def _fused_loss(self, batch: Batch) -> Loss:
        """With the policy's means that came with the rollout, graph and all."""
        reference_out = self._reference_out(batch)
        batch = batch.to(self.denoiser.parameters.flat)
        assert isinstance(batch, Transitions), "only a search's forwards can be shared"
        assert batch.mean is not None, "the sampler keeps means"
        reference = batch.answer(self.process, reference_out.to(batch.x_t))
        mean = batch.mean.detach()
        policy, batch = replace(reference, mean=batch.mean), replace(batch, mean=mean)
        if self.history[max(self.history)].manifest.checksum == self._fresh:
            # Policy and reference are one function. Sampling and training evaluate it in batches of different sizes,
            # and Psi's kink at 0 would take the rounding for a loser that rises.
            reference = replace(reference, mean=mean)
        return self.method.objective(policy, reference, batch)

    def _reference_out(self, batch: Batch) -> Float[Tensor, "M B C H W"]:
        if batch.reference_out is not None:
            self.reference.check(batch.reference_version)
            return batch.reference_out
        with torch.no_grad(), self.reference.active():
            return self._out(batch)

    def _with_reference(self, batch: Batch) -> Batch:
        """The batch with the reference's outputs, for several passes over it."""
        known = batch.reference_out is not None and batch.reference_version == self.reference.state.version
        if known or not self.method.needs_reference():
            return batch
        fresh = batch.with_reference(None, 0)
        parts = torch.arange(len(batch)).split(self.experiment.optimizer.micro_batch_size)
        found = self.exchange.each(parts, lambda rows: {"out": self._reference_out(fresh.take(rows))})
        out = torch.cat([values["out"] for values in found], 1).cpu()
        return batch.with_reference(out, self.reference.state.version)

    def _out(self, batch: Batch) -> Float[Tensor, "M B C H W"]:
        """The network's output at the rows' states, each state once: chains that start at one x_T share it."""
        states, count = batch.x_t.shape[:2]
        own = torch.ones(states, count, dtype=torch.bool)
        own[1:] = (batch.x_t[1:] != batch.x_t[:1]).flatten(2).any(2)
        rows = torch.arange(count).expand(states, count)
        places = torch.where(own, own.flatten().cumsum(0).unflatten(0, (states, count)) - 1, rows)
        out = self.denoiser.predict(
            batch.x_t[own],
            batch.times(self.process)[rows[own]],
            tuple(batch.prompts[int(row)] for row in rows[own]),
            self.teacher.guidance_scale,
        )
        return out[places.to(out.device)]

    def _remember(self, version: int) -> None:
        taken = self.denoiser.parameters.take(version)
        self.exchange.agree(f"version {version} of the weights", taken.manifest.checksum)
        self.history[version] = taken
        for old in [known for known in self.history if known < version - self.experiment.run.lag]:
            del self.history[old]

    def export(self, folder: Path) -> None:
        """Writes the newest policy, as it is deployed, for diffusers."""
        newest = self.history[max(self.history)].flat
        with self.denoiser.parameters.wearing(newest if self.average is None else self.average):
            self.denoiser.export(folder)
