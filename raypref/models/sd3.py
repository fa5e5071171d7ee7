"""Stable Diffusion 3 and 3.5: flow matching on a transformer, with two CLIP encoders and, optionally, T5."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from raypref.core.process import Scheduler
from raypref.core.schedule import FlowSchedule
from raypref.models.base import Decoder, Denoiser, Encoder, ModelConfig, ModelFamily
from raypref.models.checkpoint import UNUSED, check_checkpoint, load_pipeline
from raypref.models.decoder import load_decoder
from raypref.models.encoder import load_encoder
from raypref.models.guided import GuidedDenoiser, Text

PIPELINE = "StableDiffusion3Pipeline"
WEIGHTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
T5 = ("text_encoder_3", "tokenizer_3")
BESIDE_VAE = ("transformer", "text_encoder", "text_encoder_2", *TOKENIZERS, *T5, *UNUSED)
OTHER_GRIDS = (
    *("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    *("invert_sigmas", "shift_terminal"),
)


def read_flow_schedule(scheduler: Any) -> FlowSchedule:
    """The noise levels of a checkpoint, with its shift towards high noise.

    Raises:
        ValueError: where the checkpoint asks for another grid of noise levels than the shifted one.
    """
    for switch in OTHER_GRIDS:
        if scheduler.config.get(switch):
            raise ValueError(f"the checkpoint's scheduler sets {switch}: only the grid of a fixed shift is supported.")
    return FlowSchedule(scheduler.config.num_train_timesteps, scheduler.config.shift)


class SD3Denoiser(GuidedDenoiser):
    """SD3Transformer2DModel, which predicts the velocity noise - x_0."""

    network_name: ClassVar[str] = "transformer"
    kohya_prefixes: ClassVar[Mapping[str, str]] = {
        "transformer": "lora_transformer",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }

    def __init__(self, config: ModelConfig) -> None:
        omit = ("vae", *UNUSED) if config.text_encoder_3 else ("vae", *T5, *UNUSED)
        pipe = load_pipeline(PIPELINE, config, config.torch_dtype(), omit)
        super().__init__(config, pipe)
        self.schedule = read_flow_schedule(pipe.scheduler)

    def encode(self, prompt: str) -> Text:
        """See `GuidedDenoiser.encode`. Without T5 its part of the text is zeros, as in the pipeline."""
        text, _, pooled, _ = self.pipe.encode_prompt(
            prompt, None, None, device=self.device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": text[0], "pooled_projections": pooled[0]}

    def out(self, x_t: Float[Tensor, "N C H W"], t: Num[Tensor, " N"], text: Text) -> Float[Tensor, "N C H W"]:
        """See `GuidedDenoiser.out`."""
        return self.network(x_t, timestep=t.float(), **text).sample


class SD3(ModelFamily):
    """SD 3 and 3.5 checkpoints."""

    name: ClassVar[str] = "sd3"
    schedulers: ClassVar[tuple[Scheduler, ...]] = ("flow",)
    network_name: ClassVar[str] = SD3Denoiser.network_name
    kohya_prefixes: ClassVar[Mapping[str, str]] = SD3Denoiser.kohya_prefixes
    pipeline_kind: ClassVar[str] = PIPELINE
    network_kind: ClassVar[str] = "SD3Transformer2DModel"

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """See `ModelFamily.check`."""
        check_checkpoint(config, cls.name, WEIGHTS, (*TOKENIZERS, "scheduler"), optional=T5)
        layout = Path(config.single_file_config or config.source())
        if config.text_encoder_3 and layout.is_dir() and not (layout / "text_encoder_3").is_dir():
            raise ValueError(f"{layout} has no text_encoder_3; set model.text_encoder_3 = false to do without T5.")

    @classmethod
    def inputs(cls, settings: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """See `ModelFamily.inputs`. The text is CLIP's 77 tokens and T5's 256."""
        size = settings["sample_size"]
        return {
            "hidden_states": torch.zeros(rows, settings["in_channels"], size, size),
            "timestep": torch.zeros(rows),
            "encoder_hidden_states": torch.zeros(rows, 77 + 256, settings["joint_attention_dim"]),
            "pooled_projections": torch.zeros(rows, settings["pooled_projection_dim"]),
        }

    @classmethod
    def denoiser(cls, config: ModelConfig) -> Denoiser:
        """See `ModelFamily.denoiser`."""
        return SD3Denoiser(config)

    @classmethod
    def decoder(cls, config: ModelConfig) -> Decoder:
        """See `ModelFamily.decoder`."""
        return load_decoder(PIPELINE, config, BESIDE_VAE)

    @classmethod
    def encoder(cls, config: ModelConfig) -> Encoder:
        """See `ModelFamily.encoder`."""
        return load_encoder(cls, config, BESIDE_VAE)
