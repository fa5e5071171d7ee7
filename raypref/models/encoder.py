"""The VAE encoder of every family."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.core.weights import checksum
from raypref.models.base import Encoder, ModelConfig, ModelFamily
from raypref.models.checkpoint import read_config
from raypref.models.decoder import check_normalisation, load_vae, vae_dtype
from raypref.models.libraries import Network


class VAEEncoder(Encoder):
    """AutoencoderKL's encoder."""

    def __init__(self, config: ModelConfig, vae: Network, dtype: torch.dtype, latent_side: int) -> None:
        check_normalisation(vae)
        weights = dict(sorted(vae.state_dict().items()))
        self._weights = checksum(*weights.values())  # of the float32 that was read, not of what it is rounded to
        self.device = config.torch_device()
        self.vae = vae.to(self.device, dtype, memory_format=config.memory_format()).eval().requires_grad_(False)
        if config.vae_tiling:
            self.vae.enable_tiling()
        self.layout = {"tiling": config.vae_tiling, "channels_last": config.channels_last}
        self.side = latent_side * 2 ** (len(vae.config.block_out_channels) - 1)
        self.latent_shape = (vae.config.latent_channels, latent_side, latent_side)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N C H W"]:
        """See `Encoder.encode`."""
        scaled = (2 * images - 1).to(self.device, self.vae.dtype)
        latents = self.vae.encode(scaled).latent_dist.mode().float().cpu()
        return (latents - self._shift()) * self.vae.config.scaling_factor

    def identity(self) -> dict[str, Any]:
        """See `Encoder.identity`."""
        return {
            "vae": self._weights,
            "scaling_factor": self.vae.config.scaling_factor,
            "shift_factor": self._shift(),
            "dtype": str(self.vae.dtype).removeprefix("torch."),
            **self.layout,
            "side": self.side,
            "latent_shape": list(self.latent_shape),
        }

    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0


def load_encoder(family: type[ModelFamily], config: ModelConfig, omit: tuple[str, ...]) -> VAEEncoder:
    """The encoder of the checkpoint's VAE, or of the one that `config.vae` names, for the pictures that the denoising
    network was made for."""
    vae = load_vae(family.pipeline_kind, config, omit)
    side = read_config(family.network_kind, config, family.network_name)["sample_size"]
    return VAEEncoder(config, vae, vae_dtype(config, vae, family.upcast_vae), side)
