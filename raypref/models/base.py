"""What raypref knows of a diffusion model: a denoiser that is trained, and a decoder that makes pictures."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor

from raypref.core.process import Scheduler
from raypref.core.schedule import FlowSchedule, Schedule
from raypref.core.weights import FlatParameters

TINY = Path(__file__).parent.parent / "assets" / "tiny"
"""The tiny text-to-image model that ships with the package: `[model] path = "tiny"`."""


@dataclass(frozen=True)
class ModelConfig:
    """`[model]`: which network, on what device, and what of it is trained."""

    family: str = "stable_diffusion"
    """The file in raypref/models/ that loads it."""
    path: str = "tiny"
    """A hub id, a folder in diffusers' layout, a single .safetensors file, or "tiny": the model that raypref ships."""
    revision: str | None = None
    """The hub revision (commit, tag or branch) of `path` to pin."""
    variant: str | None = None
    """Which files of a checkpoint that holds several, such as "fp16"; they are computed with in `dtype`."""
    single_file_config: str = ""
    """For a single file: a folder or hub id in diffusers' layout whose config and tokenizer files are used."""
    vae: str = ""
    """A folder or hub id of an AutoencoderKL in the checkpoint's place, such as madebyollin/sdxl-vae-fp16-fix."""
    tiny_vae: str = ""
    """A folder or hub id of an AutoencoderTiny (madebyollin/taesd, taesdxl, taesd3), which decodes the pictures that
    are predicted on the way, approximately. Finished pictures always get the full decoder."""
    text_encoder_3: bool = True
    """sd3 only: false leaves out the T5 encoder, 4.7 billion parameters."""
    device: str = "auto"
    """A torch device; auto is cuda where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the frozen network. LoRA, latents and all maths after the network's output are float32. Gradients
    are scaled on their way through float16 (`raypref.models.precision`)."""
    channels_last: bool = False
    """Convolutions in memory order N H W C: faster where kernels prefer it. Like the precision, it changes digits."""
    compile: bool = False
    """torch.compile of the denoising network in every worker: minutes at the start, and on CPUs a C++ compiler. Which
    kernels it picks depends on the sizes seen before, so a resumed run has the same numbers only up to rounding."""
    gradient_checkpointing: bool = False
    """The learner computes activations again instead of keeping them: more time for a fraction of the memory."""
    vae_slicing: bool = False
    """The decoder takes one picture at a time: less memory where many are scored together."""
    vae_tiling: bool = False
    """The decoder takes one overlapping tile at a time where a picture is larger than it was trained on: less memory,
    and seams that are blended over."""
    cpu_offload: bool = False
    """Samplers and the learner keep their frozen weights, text encoders included, in the CPU's memory while they have
    nothing to do: less of a GPU that they share, for a copy at every turn. While they are at work they need as much."""
    free_text_encoders: bool = False
    """Every prompt of the run is encoded at the start, and the text encoders are then dropped from memory."""
    train: Literal["lora", "full"] = "lora"
    """lora: an adapter. full: every weight of the denoising network, in float32, with as many again for the optimizer
    and for the pretrained reference."""
    lora_weights: str = ""
    """A LoRA that training starts from, in diffusers' or kohya's layout: a .safetensors file, a folder with one, a hub
    id, or owner/name/file.safetensors. It is fused into the frozen weights, in the reference too, and the run's export
    holds both. Its rank, scale and targets are its own: `lora_rank` and so on are those of the adapter on top."""
    lora_rank: int = 4
    lora_alpha: int = 4
    """The adapter is scaled by lora_alpha / lora_rank."""
    lora_target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Names of the linear layers that get an adapter, as in peft's target_modules."""

    def __post_init__(self) -> None:
        for name in ("lora_rank", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: use 1 or more, such as 4.")
        device = "cpu" if self.device == "auto" else self.device
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ValueError(f"device = {self.device!r}: use auto, cpu, cuda, or cuda:0 and so on.")
        if self.train == "full" and (self.dtype != "float32" or self.channels_last):
            raise ValueError(
                f"train = 'full': all weights are trained in one flat float32 buffer, but dtype = {self.dtype!r} and "
                f"channels_last = {self.channels_last}; use float32 and false, or train = 'lora'."
            )
        if self.train == "full" and self.lora_weights:
            raise ValueError(
                f"lora_weights = {self.lora_weights!r}: with train = 'full' the network alone is exported; fuse the "
                "LoRA in diffusers (load_lora_weights, fuse_lora, save_pretrained) and name that folder in path."
            )
        if not self.lora_target_modules:
            raise ValueError('lora_target_modules is empty: name at least one layer, such as "to_q".')

    def source(self) -> str:
        """What from_pretrained is given."""
        return str(TINY) if self.path == "tiny" else self.path

    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.dtype]

    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.preserve_format


class Denoiser(ABC):
    """The network that predicts noise (or velocity), with its text encoder and its trainable weights.

    `schedule`, `latent_shape` (C, H, W) and `parameters` (an adapter or all of it, as one flat buffer) are set by
    subclasses.
    """

    schedule: Schedule | FlowSchedule
    latent_shape: tuple[int, int, int]
    parameters: FlatParameters

    @abstractmethod
    def predict(
        self, x_t: Float[Tensor, "N C H W"], t: Num[Tensor, " N"], prompts: tuple[str, ...], guidance_scale: float
    ) -> Float[Tensor, "N C H W"]:
        """The raw output at (x_t, t), combined by classifier-free guidance in float32:

            out = out(empty prompt) + guidance_scale (out(prompt) - out(empty prompt)),

        both halves in one batch; a scale of 1 skips the empty half. This guided output is the policy: sampling and
        training use it alike, and gradients flow through both halves.
        """

    def at_work(self) -> AbstractContextManager[None]:
        """Inside it all of the network is on its device, for predictions and whatever gradients go back through them.
        Predictions alone see to it themselves, one by one."""
        return nullcontext()

    @abstractmethod
    def free_text_encoders(self, prompts: Iterable[str]) -> None:
        """Encodes these prompts and the empty one, and drops the text encoders: others are errors from then on."""

    @abstractmethod
    def reference(self) -> AbstractContextManager[None]:
        """Inside it the network is the one that training starts from, bit for bit. For use without gradients."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Writes what the checkpoint has become, for diffusers: an adapter for `pipe.load_lora_weights(folder)`, or the
        whole network for its `from_pretrained(folder)`."""


class Decoder(ABC):
    """The VAE decoder."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 3 height width"]:
        """Pictures in [0, 1], float32. Differentiable; callers that only score use torch.no_grad()."""


class Encoder(ABC):
    """The VAE encoder. `side` (pixels of a picture) and `latent_shape` (C, H, W) are set by subclasses."""

    side: int
    latent_shape: tuple[int, int, int]

    @abstractmethod
    def encode(self, images: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N C H W"]:
        """Clean latents of pictures in [0, 1], float32 on the CPU: the mode of the posterior, scaled and shifted as the
        denoising network knows them. `Decoder.decode` is its inverse, but for what a VAE loses."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the latents of a picture depend on: a checksum of the weights, scaling, precision."""


class ModelFamily(ABC):
    """How one family of checkpoints is loaded. Subclasses are final, one a file, and are found by their `name`."""

    name: ClassVar[str]
    schedulers: ClassVar[tuple[Scheduler, ...]]
    """Which reverse processes its network can follow."""
    upcast_vae: ClassVar[bool] = False
    """Whether its VAE decodes in float32, whatever `ModelConfig.dtype`, where the VAE's config says force_upcast."""
    network_name: ClassVar[str]
    """The denoising network's folder, its name in diffusers' pipeline, and the prefix of its LoRA."""
    network_kind: ClassVar[str]
    """The denoising network's class in diffusers."""
    pipeline_kind: ClassVar[str]
    """The pipeline's class in diffusers."""
    kohya_prefixes: ClassVar[Mapping[str, str]]
    """What a LoRA can change, by its name in the pipeline -> what its modules' names begin with in kohya's layout, as
    ComfyUI reads it."""

    @classmethod
    @abstractmethod
    def check(cls, config: ModelConfig) -> None:
        """Raises ValueError where a local path cannot be such a checkpoint. Must not load weights."""

    @classmethod
    @abstractmethod
    def inputs(cls, settings: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """Zeros in the shapes that a network of this config.json is called with, for `rows` latents."""

    @classmethod
    @abstractmethod
    def denoiser(cls, config: ModelConfig) -> Denoiser:
        """Loads network, text encoder and schedule, and adds a fresh adapter whose output is zero."""

    @classmethod
    @abstractmethod
    def decoder(cls, config: ModelConfig) -> Decoder:
        """Loads the VAE alone."""

    @classmethod
    @abstractmethod
    def encoder(cls, config: ModelConfig) -> Encoder:
        """Loads the VAE alone."""
