"""Frozen weights that are on the GPU only while somebody computes with them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Offload:
    """What is not trained waits in the CPU's memory between two turns of a role: while a learner learns, its samplers'
    networks leave the GPU to it. Weights do not change, so they are copied one way only. On a CPU it does nothing."""

    def __init__(self, modules: Sequence[torch.nn.Module], device: torch.device) -> None:
        """Of the modules, what is frozen is on the CPU, and what is trained where it is computed with: on `device`."""
        self.device, self._lock, self._users = device, threading.Lock(), 0
        # Pinned memory is read faster, and has every block rounded up to a power of two: too much of a small machine.
        self._homes = {tensor: tensor.data for tensor in _frozen(modules)}

    def keep_only(self, modules: Sequence[torch.nn.Module]) -> None:
        """Lets go of all others."""
        self._homes = {tensor: self._homes[tensor] for tensor in _frozen(modules)}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside it the weights are on the device. Backward passes belong inside too: what autograd keeps of a weight
        is the weight. Several threads may be inside at once; the last one to go turns off the light."""
        try:
            with self._lock:
                self._users += 1
                if self._users == 1:
                    self._come()
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._leave()

    def _come(self) -> None:
        for tensor, home in self._homes.items():
            tensor.data = home.to(self.device)

    def _leave(self) -> None:
        for tensor, home in self._homes.items():
            tensor.data = home
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # for the other processes on the GPU


def _frozen(modules: Sequence[torch.nn.Module]) -> list[Tensor]:
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return [tensor for tensor in tensors if not tensor.requires_grad]
