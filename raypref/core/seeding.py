"""Addressed randomness: a random number is looked up by what it is for, never consumed from a stream.

`Key(seed)("rollout", iteration, item, candidate, step)` names one draw. Whoever asks, on whatever worker, however
often, gets the same numbers; so there is no generator state to checkpoint, and losing or adding workers cannot change
a run.
"""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Key:
    """A seed and the address of what is drawn under it."""

    seed: int
    address: tuple[str | int, ...] = ()

    def __call__(self, *parts: str | int) -> "Key":
        """The key one or more levels further down."""
        return Key(self.seed, self.address + parts)

    def digest(self) -> int:
        """A 63-bit hash of seed and address; distinct types hash apart (1 is not "1")."""
        text = repr((self.seed, self.address)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1

    def generator(self) -> torch.Generator:
        """A fresh CPU generator: the same key always starts the same stream."""
        return torch.Generator().manual_seed(self.digest())

    def normal(self, *shape: int) -> Float[Tensor, "..."]:
        """Standard normal draws, float32, on the CPU (so that every device sees the same numbers)."""
        return torch.randn(shape, generator=self.generator(), dtype=torch.float32)

    def permutation(self, count: int) -> Int[Tensor, " count"]:
        """A random order of `count` things."""
        return torch.randperm(count, generator=self.generator())

    def integer(self, below: int) -> int:
        """One integer in [0, below)."""
        return int(torch.randint(below, (), generator=self.generator()))
