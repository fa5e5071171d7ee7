"""Stable Diffusion 1.x and 2.x, and the tiny model of the same classes that ships with raypref."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from raypref.core.schedule import Schedule
from raypref.models.base import Decoder, Denoiser, ModelConfig, ModelFamily
from raypref.models.lora import adapter_off, add_lora, diffusers_state, order_metadata

WEIGHTS = ("unet", "vae", "text_encoder")
FOLDERS = (*WEIGHTS, "tokenizer", "scheduler")


def read_schedule(scheduler: DDIMScheduler) -> Schedule:
    """The noise schedule of a checkpoint, in float64.

    Raises:
        ValueError: where the checkpoint asks for something that has no Gaussian step (clipped or thresholded samples).
    """
    settings = scheduler.config
    for switch in ("clip_sample", "thresholding", "rescale_betas_zero_snr"):
        if settings.get(switch):
            raise ValueError(f"the checkpoint's scheduler sets {switch}: latent diffusion needs it false.")
    return Schedule(
        alphas_cumprod=scheduler.alphas_cumprod.double(),
        final_alpha_cumprod=float(scheduler.final_alpha_cumprod),
        prediction_type=settings.prediction_type,
        timestep_spacing=settings.timestep_spacing,
        steps_offset=settings.steps_offset,
    )


class StableDiffusionDenoiser(Denoiser):
    """UNet2DConditionModel conditioned on CLIP text."""

    def __init__(self, config: ModelConfig) -> None:
        source, revision, dtype = config.source(), config.revision, config.torch_dtype()
        self.device = config.torch_device()
        self.unet = UNet2DConditionModel.from_pretrained(
            source, subfolder="unet", revision=revision, torch_dtype=dtype, use_safetensors=True
        ).to(self.device, memory_format=config.memory_format())
        self.text_encoder = CLIPTextModel.from_pretrained(
            source, subfolder="text_encoder", revision=revision, torch_dtype=dtype, use_safetensors=True
        ).to(self.device)
        self.tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", revision=revision)
        # transformers builds an empty tokenizer, silently, where a checkpoint's files are missing: every prompt is then
        # the same unknown word.
        if len(self.tokenizer) < self.text_encoder.config.vocab_size:
            raise OSError(
                f"the tokenizer of {source} knows {len(self.tokenizer)} words, its text encoder "
                f"{self.text_encoder.config.vocab_size}: are the tokenizer's files there?"
            )
        self.unet.eval()
        self.text_encoder.eval().requires_grad_(False)
        self.schedule = read_schedule(DDIMScheduler.from_pretrained(source, subfolder="scheduler", revision=revision))
        size = self.unet.config.sample_size
        self.latent_shape = (self.unet.config.in_channels, size, size)
        self.parameters = add_lora(self.unet, config)
        if config.compile:
            self.unet.compile()
        self._embeddings: dict[str, Tensor] = {}

    @torch.no_grad()
    def _embed(self, prompts: tuple[str, ...]) -> Float[Tensor, "N L D"]:
        """Text embeddings; each prompt is encoded once a worker, and alone, so that bits never depend on company."""
        for prompt in prompts:
            if prompt not in self._embeddings:
                tokens = self.tokenizer(
                    prompt,
                    padding="max_length",
                    max_length=self.tokenizer.model_max_length,
                    truncation=True,
                    return_tensors="pt",
                )
                self._embeddings[prompt] = self.text_encoder(tokens.input_ids.to(self.device))[0][0]
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def predict(
        self, x_t: Float[Tensor, "N C H W"], t: Int[Tensor, " N"], prompts: tuple[str, ...], guidance_scale: float
    ) -> Float[Tensor, "N C H W"]:
        """See `Denoiser.predict`."""
        x_t, t = x_t.to(self.device), t.to(self.device)
        if guidance_scale == 1.0:
            return self._out(x_t, t, self._embed(prompts))
        text = self._embed(("",) * len(prompts) + prompts)
        empty, full = self._out(torch.cat([x_t, x_t]), torch.cat([t, t]), text).chunk(2)
        return empty + guidance_scale * (full - empty)

    def _out(
        self, x_t: Float[Tensor, "N C H W"], t: Int[Tensor, " N"], text: Float[Tensor, "N L D"]
    ) -> Float[Tensor, "N C H W"]:
        return self.unet(x_t.to(self.unet.dtype), t, encoder_hidden_states=text).sample.float()

    def reference(self) -> AbstractContextManager[None]:
        """See `Denoiser.reference`."""
        return adapter_off(self.unet)

    def export_lora(self, folder: Path) -> None:
        """See `Denoiser.export_lora`."""
        state, metadata = diffusers_state(self.unet)
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state, unet_lora_adapter_metadata=metadata)
        order_metadata(folder / LORA_WEIGHT_NAME_SAFE)


class StableDiffusionDecoder(Decoder):
    """AutoencoderKL's decoder."""

    def __init__(self, config: ModelConfig) -> None:
        self.device = config.torch_device()
        self.vae = AutoencoderKL.from_pretrained(
            config.source(),
            subfolder="vae",
            revision=config.revision,
            torch_dtype=config.torch_dtype(),
            use_safetensors=True,
        ).to(self.device, memory_format=config.memory_format())
        self.vae.eval().requires_grad_(False)

    def decode(self, latents: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 3 height width"]:
        """See `Decoder.decode`."""
        scaled = latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor
        return (self.vae.decode(scaled).sample.float() / 2 + 0.5).clamp(0, 1)


class StableDiffusion(ModelFamily):
    """SD 1.x and 2.x checkpoints in diffusers' folder layout, from the hub or from disk."""

    name: ClassVar[str] = "stable_diffusion"

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """See `ModelFamily.check`."""
        folder = Path(config.source())
        if not folder.exists():
            return  # a hub id: only the hub can tell
        index = folder / "model_index.json"
        if not index.is_file():
            raise ValueError(f"{folder} is no diffusers folder: it has no model_index.json.")
        missing = [name for name in FOLDERS if not (folder / name).is_dir()]
        if missing:
            kind = json.loads(index.read_text()).get("_class_name")
            raise ValueError(f"{folder} ({kind}) lacks {', '.join(missing)}: family stable_diffusion needs them.")
        pickled = [name for name in WEIGHTS if not any((folder / name).glob("*.safetensors"))]
        if pickled:
            raise ValueError(
                f"{folder} has no .safetensors file in {', '.join(pickled)}; pickled weights (.bin) can run code and "
                "are not loaded; load the pipeline in diffusers once and save it with safe_serialization=True."
            )

    @classmethod
    def denoiser(cls, config: ModelConfig) -> Denoiser:
        """See `ModelFamily.denoiser`."""
        return StableDiffusionDenoiser(config)

    @classmethod
    def decoder(cls, config: ModelConfig) -> Decoder:
        """See `ModelFamily.decoder`."""
        return StableDiffusionDecoder(config)
