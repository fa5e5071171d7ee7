"""Latents are what the network was trained on: the posterior's mode, shifted and scaled as each family's are."""

import pytest
import torch
from diffusers import AutoencoderKL

from raypref.models.base import ModelConfig
from raypref.models.sd3 import SD3
from raypref.models.sdxl import SDXL
from raypref.models.stable_diffusion import StableDiffusion

FAMILIES = {"random_model": StableDiffusion, "random_sdxl": SDXL, "random_sd3": SD3}


@pytest.mark.parametrize("name", FAMILIES)
def test_latents_agree_with_diffusers_and_decode_to_the_same_picture(name, request):
    folder, family = request.getfixturevalue(name), FAMILIES[name]
    config = ModelConfig(family=family.name, path=str(folder), device="cpu")
    encoder, decoder, vae = (
        family.encoder(config),
        family.decoder(config),
        AutoencoderKL.from_pretrained(folder / "vae"),
    )
    side = encoder.side
    assert encoder.latent_shape == family.denoiser(config).latent_shape
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    latents = encoder.encode(images)
    with torch.no_grad():
        mode = vae.encode(2 * images - 1).latent_dist.mode()
        there_and_back = (vae.decode(mode).sample / 2 + 0.5).clamp(0, 1)
    shift = vae.config.shift_factor or 0.0
    assert (vae.config.scaling_factor, bool(shift)) != (1.0, name != "random_sd3")
    torch.testing.assert_close(latents, (mode - shift) * vae.config.scaling_factor)
    torch.testing.assert_close(decoder.decode(latents), there_and_back, atol=1e-5, rtol=1e-4)
    assert encoder.encode(images).equal(latents)


def test_the_tiny_model_encodes_what_it_decodes():
    encoder, decoder = (
        build(ModelConfig(device="cpu")) for build in (StableDiffusion.encoder, StableDiffusion.decoder)
    )
    latents = torch.randn(1, *encoder.latent_shape, generator=torch.Generator().manual_seed(0))
    picture = decoder.decode(latents)
    assert (decoder.decode(encoder.encode(picture)) - picture).abs().mean() < 0.05
    assert encoder.side == 64


def test_identity_tells_weights_and_settings_apart(random_model, random_sdxl):
    base = ModelConfig(path=str(random_model), device="cpu")
    identity = StableDiffusion.encoder(base).identity()
    assert StableDiffusion.encoder(base).identity() == identity
    others = [
        ModelConfig(path=str(random_model), device="cpu", dtype="bfloat16"),
        ModelConfig(path=str(random_model), device="cpu", vae_tiling=True),
    ]
    assert all(StableDiffusion.encoder(other).identity() != identity for other in others)
    tiny = StableDiffusion.encoder(ModelConfig(device="cpu")).identity()
    assert tiny["vae"] != identity["vae"]
