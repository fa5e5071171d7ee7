"""Stable Diffusion 1.x and 2.x, and the tiny model of the same classes that ships with raypref."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from raypref.core.process import Scheduler
from raypref.core.schedule import Schedule
from raypref.models.base import Decoder, Denoiser, Encoder, ModelConfig, ModelFamily
from raypref.models.checkpoint import UNUSED, check_checkpoint, load_pipeline
from raypref.models.decoder import load_decoder
from raypref.models.encoder import load_encoder
from raypref.models.guided import GuidedDenoiser, Text
from raypref.models.libraries import diffusers

PIPELINE = "StableDiffusionPipeline"
WEIGHTS = ("unet", "vae", "text_encoder")
OTHERS = ("tokenizer", "scheduler")
BESIDE_VAE = ("unet", "text_encoder", "tokenizer", *UNUSED)


def read_schedule(scheduler: Any) -> Schedule:
    """The noise schedule of a checkpoint, whatever sampler it was saved with, in float64.

    Raises:
        ValueError: where the checkpoint asks for something that has no Gaussian step (clipped or thresholded samples).
    """
    ddim = diffusers("DDIMScheduler").from_config(scheduler.config)
    settings = ddim.config
    for switch in ("clip_sample", "thresholding", "rescale_betas_zero_snr"):
        if settings.get(switch):
            raise ValueError(f"the checkpoint's scheduler sets {switch}: latent diffusion needs it false.")
    return Schedule(
        alphas_cumprod=ddim.alphas_cumprod.double(),
        final_alpha_cumprod=float(ddim.final_alpha_cumprod),
        prediction_type=settings.prediction_type,
        timestep_spacing=settings.timestep_spacing,
        steps_offset=settings.steps_offset,
    )


class StableDiffusionDenoiser(GuidedDenoiser):
    """UNet2DConditionModel conditioned on CLIP text."""

    network_name: ClassVar[str] = "unet"
    kohya_prefixes: ClassVar[Mapping[str, str]] = {"unet": "lora_unet", "text_encoder": "lora_te"}

    def __init__(self, config: ModelConfig) -> None:
        pipe = load_pipeline(PIPELINE, config, config.torch_dtype(), omit=("vae", *UNUSED))
        super().__init__(config, pipe)
        self.schedule = read_schedule(pipe.scheduler)

    def encode(self, prompt: str) -> Text:
        """See `GuidedDenoiser.encode`."""
        text, _ = self.pipe.encode_prompt(prompt, self.device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": text[0]}

    def out(self, x_t: Float[Tensor, "N C H W"], t: Num[Tensor, " N"], text: Text) -> Float[Tensor, "N C H W"]:
        """See `GuidedDenoiser.out`."""
        return self.network(x_t, t, **text).sample


def unet_inputs(settings: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Zeros in the shapes of a UNet's latents, times and text of 77 tokens."""
    size = settings["sample_size"]
    return {
        "sample": torch.zeros(rows, settings["in_channels"], size, size),
        "timestep": torch.zeros(rows),
        "encoder_hidden_states": torch.zeros(rows, 77, settings["cross_attention_dim"]),
    }


class StableDiffusion(ModelFamily):
    """SD 1.x and 2.x checkpoints that predict noise or velocity."""

    name: ClassVar[str] = "stable_diffusion"
    schedulers: ClassVar[tuple[Scheduler, ...]] = ("ddim", "ddpm")
    network_name: ClassVar[str] = StableDiffusionDenoiser.network_name
    kohya_prefixes: ClassVar[Mapping[str, str]] = StableDiffusionDenoiser.kohya_prefixes
    pipeline_kind: ClassVar[str] = PIPELINE
    network_kind: ClassVar[str] = "UNet2DConditionModel"

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """See `ModelFamily.check`."""
        check_checkpoint(config, cls.name, WEIGHTS, OTHERS)

    @classmethod
    def inputs(cls, settings: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """See `ModelFamily.inputs`."""
        return unet_inputs(settings, rows)

    @classmethod
    def denoiser(cls, config: ModelConfig) -> Denoiser:
        """See `ModelFamily.denoiser`."""
        return StableDiffusionDenoiser(config)

    @classmethod
    def decoder(cls, config: ModelConfig) -> Decoder:
        """See `ModelFamily.decoder`."""
        return load_decoder(PIPELINE, config, BESIDE_VAE)

    @classmethod
    def encoder(cls, config: ModelConfig) -> Encoder:
        """See `ModelFamily.encoder`."""
        return load_encoder(cls, config, BESIDE_VAE)
