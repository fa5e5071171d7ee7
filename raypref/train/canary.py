"""The canary: a prediction that tells whether two networks with the same weights are the same function.

A checksum proves that numbers arrived. It does not prove that they are used: an adapter may be left off, scaled
wrongly, or sit on another base model. So a version of the weights travels with the learner's prediction on a fixed
input, and a sampler draws nothing before its own prediction agrees.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.process import Process
from raypref.core.seeding import Key
from raypref.core.weights import Weights, WeightsError
from raypref.models.base import Denoiser

CANARY_PROMPT = "a canary"


@dataclass(frozen=True)
class Canary:
    """A fixed input: noise, half of the trajectory's steps done, a prompt, and the guidance scale of the run."""

    denoiser: Denoiser
    process: Process
    guidance_scale: float

    @torch.no_grad()
    def sing(self) -> Float[Tensor, "1 C H W"]:
        """The prediction with the weights that are live, on the CPU."""
        x_t = Key(0)("canary").normal(1, *self.denoiser.latent_shape)
        t = self.process.t[len(self.process) // 2][None]
        return self.denoiser.predict(x_t, t, (CANARY_PROMPT,), self.guidance_scale).cpu()

    def prove(self, weights: Weights, tolerance: float) -> None:
        """Compares with the prediction that came with the live weights.

        Raises:
            WeightsError: where the root mean square difference exceeds `tolerance` times the prediction's.
        """
        if weights.canary is None:
            raise WeightsError(f"weights version {weights.manifest.version} came without a canary to prove them with")
        difference = float((self.sing() - weights.canary).norm() / weights.canary.norm())
        if not difference <= tolerance:
            raise WeightsError(
                f"weights version {weights.manifest.version}: the same weights predict otherwise here than in the "
                f"learner, by {difference:.2g} of the prediction's size (cluster.sync_tolerance = {tolerance:g}). Is "
                "an adapter off or scaled otherwise, or another base model loaded? Between kinds of devices, or in "
                "half precision, raise the tolerance to what they differ by"
            )
