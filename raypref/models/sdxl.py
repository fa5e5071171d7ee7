"""Stable Diffusion XL: two text encoders, a pooled embedding, and the picture's size as a condition."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from raypref.core.process import Scheduler
from raypref.models.base import Decoder, Denoiser, Encoder, ModelConfig, ModelFamily
from raypref.models.checkpoint import UNUSED, check_checkpoint, load_pipeline, read_config
from raypref.models.decoder import load_decoder
from raypref.models.encoder import load_encoder
from raypref.models.guided import GuidedDenoiser, Text
from raypref.models.stable_diffusion import read_schedule, unet_inputs

PIPELINE = "StableDiffusionXLPipeline"
WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
BESIDE_VAE = ("unet", "text_encoder", "text_encoder_2", *TOKENIZERS, *UNUSED)


class SDXLDenoiser(GuidedDenoiser):
    """UNet2DConditionModel conditioned on the text of two CLIP encoders, and on the picture's size."""

    network_name: ClassVar[str] = "unet"
    kohya_prefixes: ClassVar[Mapping[str, str]] = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }

    def __init__(self, config: ModelConfig) -> None:
        pipe = load_pipeline(PIPELINE, config, config.torch_dtype(), omit=("vae", *UNUSED))
        super().__init__(config, pipe)
        self.schedule = read_schedule(pipe.scheduler)
        # As the pipeline by default: original size and target size are the picture's, nothing is cropped.
        side = self.network.config.sample_size * vae_scale_factor(config)
        self.time_ids = torch.tensor([side, side, 0, 0, side, side], device=self.device, dtype=self.network.dtype)

    def encode(self, prompt: str) -> Text:
        """See `GuidedDenoiser.encode`."""
        text, _, pooled, _ = self.pipe.encode_prompt(prompt, device=self.device, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": text[0], "text_embeds": pooled[0]}

    def unconditional(self) -> Text:
        """Zeros where the checkpoint was trained so; see `GuidedDenoiser.unconditional`."""
        empty = self.encode("")
        if self.pipe.config.force_zeros_for_empty_prompt:
            return {name: torch.zeros_like(value) for name, value in empty.items()}
        return empty

    def out(self, x_t: Float[Tensor, "N C H W"], t: Num[Tensor, " N"], text: Text) -> Float[Tensor, "N C H W"]:
        """See `GuidedDenoiser.out`."""
        added = {"text_embeds": text["text_embeds"], "time_ids": self.time_ids.expand(len(x_t), -1)}
        return self.network(x_t, t, text["encoder_hidden_states"], added_cond_kwargs=added).sample


def vae_scale_factor(config: ModelConfig) -> int:
    """Pixels a latent: the VAE halves once between two levels."""
    return 2 ** (len(read_config("AutoencoderKL", config, "vae")["block_out_channels"]) - 1)


class SDXL(ModelFamily):
    """SDXL base checkpoints, and fine-tuned ones of their layout. Their own VAE overflows in float16."""

    name: ClassVar[str] = "sdxl"
    schedulers: ClassVar[tuple[Scheduler, ...]] = ("ddim", "ddpm")
    upcast_vae: ClassVar[bool] = True
    network_name: ClassVar[str] = SDXLDenoiser.network_name
    kohya_prefixes: ClassVar[Mapping[str, str]] = SDXLDenoiser.kohya_prefixes
    pipeline_kind: ClassVar[str] = PIPELINE
    network_kind: ClassVar[str] = "UNet2DConditionModel"

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """See `ModelFamily.check`."""
        check_checkpoint(config, cls.name, WEIGHTS, (*TOKENIZERS, "scheduler"))

    @classmethod
    def inputs(cls, settings: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """See `ModelFamily.inputs`."""
        pooled = settings["projection_class_embeddings_input_dim"] - 6 * settings["addition_time_embed_dim"]
        added = {"text_embeds": torch.zeros(rows, pooled), "time_ids": torch.zeros(rows, 6)}
        return unet_inputs(settings, rows) | {"added_cond_kwargs": added}

    @classmethod
    def denoiser(cls, config: ModelConfig) -> Denoiser:
        """See `ModelFamily.denoiser`."""
        return SDXLDenoiser(config)

    @classmethod
    def decoder(cls, config: ModelConfig) -> Decoder:
        """See `ModelFamily.decoder`."""
        return load_decoder(PIPELINE, config, BESIDE_VAE, upcast=cls.upcast_vae)

    @classmethod
    def encoder(cls, config: ModelConfig) -> Encoder:
        """See `ModelFamily.encoder`."""
        return load_encoder(cls, config, BESIDE_VAE)
