"""Whether a compiled network learns as the plain one does."""

import torch
from torch import Tensor

from raypref.core.seeding import Key
from raypref.models.base import Denoiser

LOST = 0.5
"""Relative error from which a parameter's gradient is another one; precisions below float32 stay far under it."""
SMALL = 1e-3
"""Share of the whole gradient's norm below which a parameter's own says nothing."""


class WrongGradient(ValueError):
    """The compiler of this torch, for this device, makes another gradient of the network."""


def check_compiled(denoiser: Denoiser, prompt: str) -> None:
    """Compares the gradient of a compiled denoiser's trained weights with that of its plain network, for one latent.
    On CPUs torch 2.13 makes another one of a UNet's middle and lower blocks, while predictions are right.

    Raises:
        WrongGradient: where a parameter's is another.
    """
    with denoiser.at_work():
        with torch.compiler.set_stance("force_eager"):
            plain = _gradients(denoiser, prompt)
        compiled = _gradients(denoiser, prompt)
    whole = torch.stack([gradient.norm() for gradient in plain.values()]).norm()
    wrong = [name for name, own in plain.items() if (compiled[name] - own).norm() > LOST * own.norm() + SMALL * whole]
    if wrong:
        raise WrongGradient(
            f"model.compile = true: of {len(plain)} trained tensors {len(wrong)} get another gradient from the "
            f"compiled network than from the plain one, {wrong[0]} among them: a fault of torch {torch.__version__} on "
            f"{denoiser.parameters.flat.device.type}; leave model.compile out"
        )


def _gradients(denoiser: Denoiser, prompt: str) -> dict[str, Tensor]:
    """Of the mean square of a prediction from noise, by parameter."""
    named = denoiser.parameters.parameters
    x_t = Key(0)("compiled").normal(*denoiser.latent_shape)[None]
    loss = denoiser.predict(x_t, torch.tensor([500]), (prompt,), 1.0).square().mean()
    found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True))
