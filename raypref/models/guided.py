"""What every family's denoiser shares: prompts encoded once, guidance in one batch, and weights that are trained."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from raypref.models.base import Denoiser, ModelConfig
from raypref.models.existing_lora import find_file, fuse
from raypref.models.libraries import Pipeline
from raypref.models.lora import LoRA
from raypref.models.offload import Offload
from raypref.models.precision import precision
from raypref.models.trained import Trained, WholeNetwork

Text = dict[str, Tensor]
"""What a network is told of its prompts, by name; stacked along the first axis."""

KEPT_TEXTS = 1024
"""Encoded prompts that a worker keeps while it has text encoders: 0.25 GB of Stable Diffusion 1.5's. A set of labelled
pictures may have a prompt of its own for each."""


def _check_network(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for networks that are told more than latents, time and text, and would do without in silence,
    or fail later."""
    latents, out = settings["in_channels"], settings["out_channels"]
    if latents != out:
        raise ValueError(
            f"its network takes {latents} channels and predicts {out}: it paints into or edits a picture that it is "
            "given, and there is none; name a text-to-image checkpoint."
        )
    if settings.get("time_cond_proj_dim"):
        raise ValueError(
            "its network is told the guidance scale (time_cond_proj_dim), as those distilled for few steps are, and "
            "has no noise predictions that DDIM could follow; name the checkpoint that it was distilled from."
        )


class GuidedDenoiser(Denoiser):
    """A network of a diffusers pipeline, its text encoders, and its trainable weights."""

    network_name: ClassVar[str]
    """The network's name in the pipeline, which is also the prefix of its LoRA: unet or transformer."""
    kohya_prefixes: ClassVar[Mapping[str, str]]
    """See `ModelFamily.kohya_prefixes`."""

    def __init__(self, config: ModelConfig, pipe: Pipeline) -> None:
        """Raises UnusableLoRA where config.lora_weights is not to be had, or does not fit."""
        self.device, self.pipe = config.torch_device(), pipe
        # Fused on the CPU, whatever the device, and into every worker's weights: what training starts from is one
        # function for all of them, and the reference.
        fused = fuse(pipe, find_file(config.lora_weights), self.kohya_prefixes) if config.lora_weights else {}
        for module in self._modules():
            module.to("cpu" if config.cpu_offload else self.device).eval().requires_grad_(False)
        self.network: Any = getattr(pipe, self.network_name).to(memory_format=config.memory_format())
        _check_network(self.network.config)
        size = self.network.config.sample_size
        self.latent_shape = (self.network.config.in_channels, size, size)
        if config.train == "lora":
            self.trained: Trained = LoRA(self.network, config, fused)
        else:
            self.trained = WholeNetwork(self.network.to(self.device))
        self.parameters = self.trained.parameters
        self.precision = precision(config.torch_dtype(), self.parameters.parameters.values())
        if config.gradient_checkpointing:
            self.network.enable_gradient_checkpointing()
        if config.compile:
            self.network.compile()
        self._texts: dict[str | None, Text] = {}
        self._freed = False
        self._offload = Offload(self._modules(), self.device) if config.cpu_offload else None

    def _modules(self) -> list[torch.nn.Module]:
        return [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]

    def at_work(self) -> AbstractContextManager[None]:
        """See `Denoiser.at_work`."""
        return self._offload.at_work() if self._offload else nullcontext()

    @abstractmethod
    def encode(self, prompt: str) -> Text:
        """What the network is told of one prompt, without a batch axis."""

    def unconditional(self) -> Text:
        """What the empty half of guidance is told."""
        return self.encode("")

    @abstractmethod
    def out(self, x_t: Float[Tensor, "N C H W"], t: Num[Tensor, " N"], text: Text) -> Float[Tensor, "N C H W"]:
        """One call of the network, in its own precision."""

    @torch.no_grad()
    def texts(self, prompts: tuple[str | None, ...]) -> Text:
        """Encoded prompts; None is the empty half of guidance. Each is encoded alone, so that bits never depend on
        company, and kept until KEPT_TEXTS others have come.

        Raises:
            RuntimeError: where a prompt is new after the text encoders have been dropped.
        """
        for prompt in set(prompts) - set(self._texts):
            if self._freed:
                raise RuntimeError(f"prompt {prompt!r} is new, and model.free_text_encoders has dropped the encoders.")
            self._texts[prompt] = self.unconditional() if prompt is None else self.encode(prompt)
        rows = [self._texts[prompt] for prompt in prompts]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def free_text_encoders(self, prompts: Iterable[str]) -> None:
        """See `Denoiser.free_text_encoders`."""
        with self.at_work():
            self.texts((None, *prompts))
        for name in self.pipe.components:
            if name.startswith("text_encoder"):
                setattr(self.pipe, name, None)
        self._freed = True
        if self._offload:
            self._offload.keep_only(self._modules())

    def predict(
        self, x_t: Float[Tensor, "N C H W"], t: Num[Tensor, " N"], prompts: tuple[str, ...], guidance_scale: float
    ) -> Float[Tensor, "N C H W"]:
        """See `Denoiser.predict`."""
        with self.at_work():
            return self._predict(x_t, t, prompts, guidance_scale)

    def _predict(
        self, x_t: Float[Tensor, "N C H W"], t: Num[Tensor, " N"], prompts: tuple[str, ...], guidance_scale: float
    ) -> Float[Tensor, "N C H W"]:
        x_t, t = self.precision.enter(x_t.to(self.device)), t.to(self.device)
        text = self.texts(prompts if guidance_scale == 1.0 else (None,) * len(prompts) + prompts)
        self._forget_texts()
        if guidance_scale == 1.0:
            return self.precision.leave(self.out(x_t, t, text))
        empty, full = self.precision.leave(self.out(torch.cat([x_t, x_t]), torch.cat([t, t]), text)).chunk(2)
        return empty + guidance_scale * (full - empty)

    def _forget_texts(self) -> None:
        """Those that were encoded first, where they can be encoded again."""
        too_many = 0 if self._freed else max(0, len(self._texts) - KEPT_TEXTS)
        for old in list(self._texts)[:too_many]:
            del self._texts[old]

    def reference(self) -> AbstractContextManager[None]:
        """See `Denoiser.reference`."""
        return self.trained.off()

    def export(self, folder: Path) -> None:
        """See `Denoiser.export`."""
        self.trained.save(folder, type(self.pipe), self.network_name)
