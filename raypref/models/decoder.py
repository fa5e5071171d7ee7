"""The VAE decoder of every family, and a tiny approximation of it."""

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.models.base import Decoder, ModelConfig
from raypref.models.checkpoint import load_pipeline
from raypref.models.libraries import Network, diffusers
from raypref.models.precision import precision


class VAEDecoder(Decoder):
    """AutoencoderKL's decoder, or AutoencoderTiny's, whose latents are scaled already."""

    def __init__(self, config: ModelConfig, vae: Network, dtype: torch.dtype) -> None:
        check_normalisation(vae)
        self.device, self.precision = config.torch_device(), precision(dtype)
        self.vae = vae.to(self.device, dtype, memory_format=config.memory_format()).eval().requires_grad_(False)
        if config.vae_slicing:
            self.vae.enable_slicing()
        if config.vae_tiling:
            self.vae.enable_tiling()

    def decode(self, latents: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 3 height width"]:
        """See `Decoder.decode`."""
        scaled = self.precision.enter(latents.to(self.device)) / self.vae.config.scaling_factor
        if self.vae.config.get("shift_factor"):
            scaled = scaled + self.vae.config.shift_factor
        return (self.precision.leave(self.vae.decode(scaled).sample) / 2 + 0.5).clamp(0, 1)


def check_normalisation(vae: Network) -> None:
    """Raises ValueError where latents are more than scaled and shifted."""
    if vae.config.get("latents_mean") is not None:
        raise ValueError("the VAE normalises latents by latents_mean and latents_std, which is not supported.")


def load_decoder(kind: str, config: ModelConfig, omit: tuple[str, ...], upcast: bool = False) -> VAEDecoder:
    """The decoder of the checkpoint's VAE, or of the one that `config.vae` names. With `upcast` it computes in float32
    where its config says force_upcast, whatever `config.dtype`."""
    vae = load_vae(kind, config, omit)
    return VAEDecoder(config, vae, vae_dtype(config, vae, upcast))


def load_vae(kind: str, config: ModelConfig, omit: tuple[str, ...]) -> Network:
    """The checkpoint's VAE, or the one that `config.vae` names."""
    # Read in float32: nothing is lost where it is to stay so, and rounding on the way in would be the same.
    if config.vae:
        return diffusers("AutoencoderKL").from_pretrained(config.vae, torch_dtype=torch.float32, use_safetensors=True)
    return load_pipeline(kind, config, torch.float32, omit).vae


def vae_dtype(config: ModelConfig, vae: Network, upcast: bool) -> torch.dtype:
    """What it computes in."""
    return torch.float32 if upcast and vae.config.force_upcast else config.torch_dtype()


def load_tiny_decoder(config: ModelConfig) -> VAEDecoder:
    """The AutoencoderTiny that `config.tiny_vae` names."""
    kind = diffusers("AutoencoderTiny")
    vae = kind.from_pretrained(config.tiny_vae, torch_dtype=torch.float32, use_safetensors=True)
    return VAEDecoder(config, vae, config.torch_dtype())
