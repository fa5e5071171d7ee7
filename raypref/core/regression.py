"""The second kind of supervision: noisy latents, and what the network should, or should not, predict of them."""

from collections import Counter
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from raypref.core.process import Process, over_latent
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.core.seeding import Key
from raypref.core.types import LOSE, WIN, Batch, Preferences

BANDS = 10
"""Parts of the time by which figures are told apart; band 0 is the noisiest."""


@dataclass(frozen=True)
class OwnSamples:
    """What the policy itself draws: one latent a prompt, finished, or on the way to a picture."""

    prompts: tuple[str, ...]
    """P."""
    latents: Float[Tensor, "P C H W"]
    """x_0 of finished ones, x_t on the way."""
    out: Float[Tensor, "P C H W"] | None
    """The policy's output at x_t; None of finished ones."""
    t: Num[Tensor, " P"]
    """The time of x_t; 0 of finished ones."""
    policy_version: int
    """See `Rollout.policy_version`."""
    policy_checksum: str
    """See `Rollout.policy_checksum`."""


def concat_own(parts: list[OwnSamples]) -> OwnSamples:
    """Those of several chunks that were drawn with the same weights."""
    outs = [part.out for part in parts if part.out is not None]
    return replace(
        parts[0],
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        latents=torch.cat([part.latents for part in parts]),
        out=torch.cat(outs) if outs else None,
        t=torch.cat([part.t for part in parts]),
    )


@dataclass(frozen=True)
class Regression(Batch):
    """Noisy latents and targets. Arm order is (WIN, LOSE)."""

    prompts: tuple[str, ...]
    """B."""
    t: Num[Tensor, " B"]
    """All arms of a row are at one time."""
    band: Int[Tensor, " B"]
    """t as one of BANDS."""
    x_t: Float[Tensor, "A B C H W"]
    target: Float[Tensor, "A B C H W"]
    """The output that would explain x_t: of a perfect network, or of the one that drew it."""
    label: Float[Tensor, " B"]
    """See `Preferences.label`."""
    weight: Float[Tensor, " B"]
    """lambda(t): multiplies the margin inside the sigmoid, or a squared error."""
    baseline: Float[Tensor, " B"] | None = None
    """The mean of `gain` over the update's whole batch, for methods that are coupled; None: this is the whole batch."""
    reference_out: Float[Tensor, "A B C H W"] | None = None
    """See `Batch.reference_out`."""
    reference_version: int = 0
    """See `Batch.reference_version`."""
    dropped: dict[str, int] = field(default_factory=dict)
    """See `Batch.dropped`."""

    def take(self, rows: Int[Tensor, " n"]) -> "Regression":
        """See `Batch.take`."""
        return replace(
            self,
            prompts=tuple(self.prompts[int(row)] for row in rows),
            t=self.t[rows],
            band=self.band[rows],
            x_t=self.x_t[:, rows],
            target=self.target[:, rows],
            label=self.label[rows],
            weight=self.weight[rows],
            baseline=None if self.baseline is None else self.baseline[rows],
            reference_out=None if self.reference_out is None else self.reference_out[:, rows],
        )

    def to(self, like: Tensor) -> "Regression":
        """See `Batch.to`."""
        return replace(
            self,
            x_t=self.x_t.to(like),
            target=self.target.to(like),
            label=self.label.to(like),
            weight=self.weight.to(like),
            baseline=None if self.baseline is None else self.baseline.to(like),
        )

    def with_reference(self, out: Float[Tensor, "A B C H W"] | None, version: int) -> "Regression":
        """See `Batch.with_reference`."""
        return replace(self, reference_out=out, reference_version=version)

    def places(self) -> Int[Tensor, " B"]:
        """The bands."""
        return self.band

    def times(self, process: Process) -> Num[Tensor, " B"]:
        """See `Batch.times`."""
        return self.t

    def answer(self, process: Process, out: Float[Tensor, "A B C H W"]) -> Float[Tensor, "A B C H W"]:
        """The output itself."""
        return out.to(self.x_t)

    def turned_round(self) -> "Regression":
        """The batch with the arms of every pair exchanged."""
        return replace(self, x_t=self.x_t.flip(0), target=self.target.flip(0))


def noised(preferences: Preferences, schedule: Schedule | FlowSchedule, key: Key) -> Regression:
    """Pictures at a random time each, uniform over those that the network was trained at, with random noise.

    Both arms of a pair get the same time and the same noise. They are addressed by the row's item, and by how often it
    has come before in this batch.
    """
    times, keys = schedule.training_times(), row_keys(preferences.items, key)
    level = torch.tensor([each("t").integer(len(times)) for each in keys], dtype=torch.int64)
    return noised_at(preferences, schedule, times[level], keys)


def noised_at(
    preferences: Preferences, schedule: Schedule | FlowSchedule, t: Num[Tensor, " B"], keys: list[Key]
) -> Regression:
    """Pictures at given times, with random noise: see `noised`."""
    shape = preferences.x_0.shape[2:]
    noise = torch.stack([each("noise").normal(*shape) for each in keys])
    x_t, target = schedule.noised(preferences.x_0, noise, t)
    return Regression(
        prompts=preferences.prompts,
        t=t,
        band=bands(t, schedule.num_train_timesteps),
        x_t=x_t,
        target=target,
        label=preferences.label,
        weight=torch.ones(len(preferences)),
    )


def row_keys(items: Int[Tensor, " B"], key: Key) -> list[Key]:
    """The key of each row's random numbers."""
    seen, keys = Counter[int](), []
    for item in items.tolist():
        keys.append(key(item, seen[item]))
        seen[item] += 1
    return keys


def bands(t: Num[Tensor, " B"], total: int) -> Int[Tensor, " B"]:
    """Which of BANDS equal parts of the time each t lies in."""
    return (BANDS - 1) - (t.double() * BANDS / total).long().clamp(0, BANDS - 1)


def error(out: Float[Tensor, "A B C H W"], batch: Regression) -> Float[Tensor, "A B"]:
    """|out - target|^2, a mean over the latent's elements, as in every published code of this family."""
    return over_latent((out - batch.target).square(), "mean")


def gain(
    policy: Float[Tensor, "A B C H W"], reference: Float[Tensor, "A B C H W"], batch: Regression
) -> Float[Tensor, "A B"]:
    """By how much the policy explains x_t better than the reference: the difference of their errors. Up to a factor of
    the time, which these methods drop, it is what log policy / reference is for a reverse step."""
    return error(reference, batch) - error(policy, batch)


def divergence(policy: Float[Tensor, "A B C H W"], reference: Float[Tensor, "A B C H W"]) -> Float[Tensor, " B"]:
    """|policy - reference|^2, a mean over arms and elements: KL(policy || reference) of a reverse step, up to the same
    factor of the time."""
    return over_latent((policy - reference).square(), "mean").mean(0)


@torch.no_grad()
def regression_drift(
    policy: Float[Tensor, "A B C H W"], reference: Float[Tensor, "A B C H W"] | None, batch: Regression
) -> dict[str, Float[Tensor, " B"]]:
    """The figures of `raypref.core.drift`, of outputs: `gain` in the place of rho, `divergence` in that of KL; NaN
    where there is no reference. A single picture counts as won where it is desirable."""
    nothing = torch.full_like(batch.weight, torch.nan)
    if reference is None:
        return dict.fromkeys(("kl", "rho_win", "rho_lose"), nothing)
    rho, figures = gain(policy, reference, batch), {"kl": divergence(policy, reference)}
    if len(rho) == 2:
        figures["accuracy"] = 0.5 + 0.5 * (rho[WIN] - rho[LOSE]).sign()
        return figures | {"rho_win": rho[WIN], "rho_lose": rho[LOSE]}
    won = batch.label == 1
    return figures | {"rho_win": torch.where(won, rho[0], nothing), "rho_lose": torch.where(won, nothing, rho[0])}
