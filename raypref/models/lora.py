"""A fresh LoRA adapter on a diffusers network: peft's layers, our initial values, one flat buffer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raypref.core.seeding import Key
from raypref.core.weights import FlatParameters
from raypref.models.base import ModelConfig
from raypref.models.libraries import Network, Pipeline, peft
from raypref.models.lora_layout import Pairs, diffusers_keys, read_pairs, stacked
from raypref.models.trained import Trained


def lora_config(config: ModelConfig) -> Any:
    """The adapter in peft's words. No dropout: the policy must be the same function in sampling and in training."""
    return peft("LoraConfig")(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=list(config.lora_target_modules),
    )


def add_adapter(network: Network, config: ModelConfig) -> None:
    """Puts the adapter's layers beside those that they change.

    Raises:
        ValueError: where no layer matches lora_target_modules.
    """
    try:
        network.add_adapter(lora_config(config))
    except ValueError as problem:
        targets, said = ", ".join(config.lora_target_modules), " ".join(str(problem).split())[:120]
        raise ValueError(
            f"lora_target_modules = {targets}: the {type(network).__name__} has no linear layer of such a name "
            f"({said}); those of its attention are to_q, to_k, to_v and to_out.0"
        ) from problem


class LoRA(Trained):
    """A trainable float32 adapter on a frozen network, whose output is exactly zero at the start.

    A ~ N(0, 1 / rank^2), B = 0, as in the authors' D3PO and SPO code. A is drawn under the parameter's own name, so
    every worker starts from the same adapter without a message.
    """

    def __init__(self, network: Network, config: ModelConfig, fused: Mapping[str, Pairs]) -> None:
        """`fused` is what has been added to the pipeline's parts before, and belongs to the export.

        Raises ValueError where no layer matches lora_target_modules.
        """
        self.network, self.fused = network.requires_grad_(False), fused
        add_adapter(network, config)
        parameters = {name: p for name, p in network.named_parameters() if "lora_" in name}
        for name, parameter in parameters.items():
            parameter.requires_grad_(True)
            fresh = Key(0)("lora", name).normal(*parameter.shape) / config.lora_rank
            parameter.data = (fresh if "lora_A" in name else torch.zeros_like(fresh)).to(config.torch_device())
        self.parameters = FlatParameters(parameters)

    @contextmanager
    def off(self) -> Iterator[None]:
        """See `Trained.off`."""
        self.network.disable_adapters()
        try:
            yield
        finally:
            self.network.enable_adapters()

    def save(self, folder: Path, pipeline: type[Pipeline], name: str) -> None:
        """Writes a file for the pipeline's load_lora_weights, under the key names of diffusers' training scripts; see
        `Trained.save`. It adds all that was added to the checkpoint, before training and by it.

        lora_alpha / lora_rank is in the weights: loaders that know no scale, or look for it elsewhere, agree.
        """
        trained = read_pairs(name, self.network, "default")
        parts = {**self.fused, name: stacked(self.fused.get(name, {}), trained)}
        layers = {f"{part}_lora_layers": diffusers_keys(part, pairs) for part, pairs in parts.items()}
        pipeline.save_lora_weights(folder, **layers)
