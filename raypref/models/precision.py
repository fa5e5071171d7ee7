"""What a network computes in, between float32 on its way in and out."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST = 2.0**4
"""What the largest element of a gradient becomes, about, that is sent back through a float16 network: what is 2^28
times smaller is still a number there, and what grows 2^12 times on its way does not overflow."""

SMALLEST = 2.0**-100
"""A gradient of which all elements are smaller is not scaled to LARGEST: the scale, too, is float32."""


class Precision:
    """Inputs are cast on the way in, and outputs, in float32, on the way out."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def enter(self, given: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return given.to(self.dtype)

    def leave(self, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return out.float()


class HalfPrecision(Precision):
    """float16, in which the gradient of a mean over a latent would vanish. What is sent back into the network is scaled
    by a power of two, and what it sends on to its input and parameters is scaled back.

    The scale is that of the latest backward pass, so a graph may hold one call of the network: one output that a
    gradient comes back to.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """`parameters` are float32, inside the network."""
        super().__init__(torch.float16)
        self.scale = torch.ones(())
        for parameter in parameters:
            parameter.register_hook(self.scaled_back)

    def enter(self, given: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return super().enter(_Gradient.apply(given.float(), self.scaled_back))

    def leave(self, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return _Gradient.apply(super().leave(out), self.scaled)

    def scaled(self, gradient: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """On its way in."""
        numbers = gradient.abs().nan_to_num(0.0, 0.0)  # one picture without a gradient shall not cost the others theirs
        self.scale = (LARGEST / numbers.max().clamp(min=SMALLEST)).log2().floor().exp2()
        return gradient * self.scale

    def scaled_back(self, gradient: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """On its way out."""
        return gradient / self.scale


def precision(dtype: torch.dtype, parameters: Iterable[torch.nn.Parameter] = ()) -> Precision:
    """Of a network with trainable `parameters`."""
    return HalfPrecision(parameters) if dtype == torch.float16 else Precision(dtype)


class _Gradient(torch.autograd.Function):
    """A tensor as it is; what comes back to it is changed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradients[0]), None
