"""How much memory a computation would need at its peak, counted on tensors without data."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from raypref.models.base import ModelConfig, ModelFamily
from raypref.models.checkpoint import read_config
from raypref.models.libraries import Network, diffusers
from raypref.models.lora import add_adapter


class LiveMemory(TorchDispatchMode):
    """Bytes of the storages that are made inside it: those alive now, and the most that ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, and counts what it made: storages that its arguments do not have."""
        given = {storage._cdata for storage in _storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage._cdata not in given | self._seen:
                self._count(storage)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


def _network(family: type[ModelFamily], config: ModelConfig) -> Network:
    """The denoising network with what is trained, on the meta device."""
    kind = diffusers(family.network_kind)
    settings = read_config(family.network_kind, config, family.network_name)
    with torch.device("meta"):
        network = kind.from_config(settings).eval().to(config.torch_dtype())
        if config.train == "lora":
            network.requires_grad_(False)
            add_adapter(network, config)
    if config.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def _as_on_cpu(network: Any) -> Any:
    """Under FakeTensorMode, a network of the meta device as one on the CPU, where attention is fused; no data."""

    def on_cpu(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")

    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = torch.nn.Parameter(on_cpu(parameter), parameter.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = on_cpu(buffer)
    return network


def network_parameters(family: type[ModelFamily], config: ModelConfig) -> tuple[int, int]:
    """How many the denoising network has, without an adapter; and how many are trained."""
    named = dict(_network(family, config).named_parameters())
    own = sum(parameter.numel() for name, parameter in named.items() if "lora_" not in name)
    return own, sum(parameter.numel() for parameter in named.values() if parameter.requires_grad)


def network_bytes(family: type[ModelFamily], config: ModelConfig, rows: int, training: bool) -> int:
    """The peak of one forward of `rows` latents, and with `training` of its backward too, beyond the network itself.

    Kernels' workspaces and what an allocator keeps back are not in it, and attention is taken to be fused.
    """
    network = _network(family, config)
    with FakeTensorMode(), torch.set_grad_enabled(training):
        network = _as_on_cpu(network)
        inputs = tree_map(lambda value: value.to(config.torch_dtype()), family.inputs(network.config, rows))
        with LiveMemory() as memory:
            out = network(**inputs).sample.float()
            if training:
                out.square().sum().backward()
    return memory.peak


def decoder_bytes(family: type[ModelFamily], config: ModelConfig, rows: int, gradient: bool = False) -> tuple[int, int]:
    """The decoder's weights, and beyond them the peak of decoding `rows` latents together, and with `gradient` of going
    back to them."""
    kind = diffusers("AutoencoderKL")
    settings = kind.load_config(config.vae) if config.vae else read_config("AutoencoderKL", config, "vae")
    side = read_config(family.network_kind, config, family.network_name)["sample_size"]
    dtype = torch.float32 if family.upcast_vae and settings.get("force_upcast", True) else config.torch_dtype()
    with torch.device("meta"):
        vae = kind.from_config(settings).eval().to(dtype).requires_grad_(False)
    if config.vae_slicing:
        vae.enable_slicing()
    with FakeTensorMode(), torch.set_grad_enabled(gradient):
        vae = _as_on_cpu(vae)
        latents = torch.zeros(rows, vae.config.latent_channels, side, side, dtype=dtype, requires_grad=gradient)
        with LiveMemory() as memory:
            pictures = vae.decode(latents).sample.float()
            if gradient:
                pictures.sum().backward()
        weights = sum(parameter.nbytes for parameter in vae.parameters())
    return weights, memory.peak
