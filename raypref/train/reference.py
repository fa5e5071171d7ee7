"""The reference policy: the pretrained model, or a copy of the policy that follows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from raypref.models.base import Denoiser
from raypref.train.experiment import ReferenceConfig


class StaleReference(RuntimeError):
    """An output that an older reference computed."""


@dataclass(frozen=True)
class ReferenceState:
    """What a checkpoint holds of a reference."""

    version: int
    updates: int
    """Optimizer updates seen."""
    flat: Float[Tensor, " n"] | None
    """The reference's adapter, in the order of the policy's flat buffer; None: the pretrained model."""


class Reference:
    """Three adapter states on one base: the policy's, the reference's, and off, which is the pretrained model.

    The update and its regularisation follow the abstract of "Rethinking DPO in diffusion models", which states that the
    reference should follow the policy, held towards the pretrained model; the formulas are our reading (see
    docs/add-ons.md).
    """

    def __init__(self, denoiser: Denoiser, config: ReferenceConfig) -> None:
        self.denoiser, self.config = denoiser, config
        # A fresh adapter, whose output is zero; or all of a network, of which a frozen reference needs no further copy.
        self._pretrained = None if config.update == "frozen" else denoiser.parameters.flat.detach().clone()
        self.state = ReferenceState(0, 0, None)

    def after_update(self) -> None:
        """Takes note of an optimizer update; every `config.every` of them the reference follows the policy:

        hard: ref <- policy        ema: ref <- ref + rate (policy - ref)
        then, with pretrained_pull p: ref <- ref + p (pretrained - ref)
        """
        config, state = self.config, self.state
        updates = state.updates + 1
        if self._pretrained is None or updates % config.every:
            self.state = ReferenceState(state.version, updates, state.flat)
            return
        policy = self.denoiser.parameters.flat.detach()
        before = self._pretrained if state.flat is None else state.flat
        moved = policy.clone() if config.update == "hard" else before.lerp(policy, config.rate)
        self.state = ReferenceState(state.version + 1, updates, moved.lerp(self._pretrained, config.pretrained_pull))

    def become(self, flat: Float[Tensor, " n"]) -> None:
        """Takes other values, as of an earlier policy."""
        here = flat.to(self.denoiser.parameters.flat)  # once, and not whenever the reference is asked
        self.state = ReferenceState(self.state.version + 1, self.state.updates, here)

    def restore(self, state: ReferenceState) -> None:
        """Goes on from a checkpoint."""
        flat = None if state.flat is None else state.flat.to(self.denoiser.parameters.flat)
        self.state = ReferenceState(state.version, state.updates, flat)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside it the network is the reference."""
        if self.state.flat is None:
            with self.denoiser.reference():
                yield
        else:
            with self.denoiser.parameters.wearing(self.state.flat):
                yield

    def check(self, version: int) -> None:
        """Raises StaleReference unless `version` is the reference's now."""
        if version != self.state.version:
            raise StaleReference(
                f"a cached output of reference version {version} is stale: the reference is at version "
                f"{self.state.version}"
            )
