"""Trainable weights as one flat buffer with a manifest: what is broadcast, stored and compared."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


class WeightsError(RuntimeError):
    """Weights that are not the ones they claim to be."""


UNPROVED = (-1, "")
"""Version and checksum of parameters that no version was proved for."""


@dataclass(frozen=True)
class Manifest:
    """Which parameters a flat buffer holds, in order, and how to tell that it arrived whole."""

    version: int
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    checksum: str


@dataclass(frozen=True)
class Weights:
    """A version of the policy's trainable weights."""

    manifest: Manifest
    flat: Float[Tensor, " n"]
    """float32, the parameters in the manifest's order."""
    canary: Float[Tensor, "1 C H W"] | None = None
    """What the learner's network predicts with them: see `raypref.train.canary`."""


def checksum(flat: Float[Tensor, " n"]) -> str:
    """BLAKE2b of the bytes of a float32 buffer."""
    return hashlib.blake2b(flat.detach().cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()


class FlatParameters:
    """Named parameters laid out in one contiguous float32 buffer, each a view into it.

    Taking or installing a version of the weights is then one memory copy, whatever the number of parameters.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Moves the given parameters, sorted by name, into the buffer; their values are kept."""
        self.parameters = dict(sorted(parameters.items()))
        self.flat = torch.cat([p.detach().float().flatten() for p in self.parameters.values()])
        offset = 0
        for parameter in self.parameters.values():
            parameter.data = self.flat[offset : offset + parameter.numel()].view(parameter.shape)
            offset += parameter.numel()
        self.version, self.checksum = UNPROVED

    def names(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(parameter.shape) for parameter in self.parameters.values())

    def take(self, version: int) -> Weights:
        """A copy of the live weights under a version number."""
        flat = self.flat.detach().cpu().clone()
        return Weights(Manifest(version, self.names(), self.shapes(), checksum(flat)), flat)

    @contextmanager
    def wearing(self, flat: Float[Tensor, " n"]) -> Iterator[None]:
        """Other values in the same parameters, for the duration and without gradients."""
        own = self.flat.detach().clone()
        try:
            with torch.no_grad():
                self.flat.copy_(flat)
                yield
        finally:
            with torch.no_grad():
                self.flat.copy_(own)

    @torch.no_grad()
    def install(self, weights: Weights) -> None:
        """Makes `weights` live, and proves it: exact names and shapes, and the checksum of the live parameters.

        Raises:
            WeightsError: naming what differs. Nothing is installed where names or shapes differ.
        """
        manifest = weights.manifest
        missing, unknown = set(self.names()) - set(manifest.names), set(manifest.names) - set(self.names())
        if missing or unknown:
            raise WeightsError(
                f"weights version {manifest.version}: missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]} "
                f"({len(missing)} and {len(unknown)} in all)"
            )
        if manifest.names != self.names() or manifest.shapes != self.shapes():
            raise WeightsError(f"weights version {manifest.version}: the order or the shapes of parameters differ")
        self.version, self.checksum = UNPROVED  # what is refused below must not pass for what was here before
        self.flat.copy_(weights.flat)
        live = checksum(torch.cat([parameter.detach().flatten() for parameter in self.parameters.values()]))
        if live != manifest.checksum:
            raise WeightsError(
                f"weights version {manifest.version}: checksum {live} of the live parameters, "
                f"but {manifest.checksum} was sent"
            )
        self.version, self.checksum = manifest.version, live
