"""A version of the weights to four workers, against plain memory copies: `python -m benchmarks.broadcast`."""

import os
import time

import numpy as np
import ray
import torch

from benchmarks.clock import tell
from raypref.cluster.wire import borrow, pack
from raypref.core.weights import FlatParameters, Weights

WORKERS, MEGABYTES, ROUNDS = 4, (3, 50, 370), 5


class Receiver:
    """A worker with parameters of a given size."""

    def __init__(self, size: int) -> None:
        torch.set_num_threads(1)
        self.parameters = FlatParameters({"a": torch.nn.Parameter(torch.zeros(size))})

    def copy(self, weights: object) -> None:
        """Only the copy into the live parameters."""
        self.parameters.flat.copy_(borrow(weights).flat)

    def install(self, weights: object) -> None:
        """The copy and its proof, the checksum."""
        self.parameters.install(borrow(weights))


def seconds_to_send(receivers: list, method: str, weights: Weights) -> float:
    started = time.perf_counter()
    packed = ray.put(pack(weights))
    ray.get([getattr(receiver, method).remote(packed) for receiver in receivers])
    return time.perf_counter() - started


def seconds_to_copy(source: np.ndarray, target: np.ndarray) -> float:
    started = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - started


def main() -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, object_store_memory=3 * 2**30)
    torch.set_num_threads(1)
    for megabytes in MEGABYTES:
        size = megabytes * 2**20 // 4
        source = FlatParameters({"a": torch.nn.Parameter(torch.randn(size))})
        receivers = [ray.remote(Receiver).options(num_cpus=1).remote(size) for _ in range(WORKERS)]
        target = np.zeros(size, np.float32)
        weights = source.take(1)
        for method in ("copy", "install"):
            seconds_to_send(receivers, method, weights)
        copied = [seconds_to_copy(weights.flat.numpy(), target) for _ in range(ROUNDS)]
        for name, method in (("broadcast_vs_memcpy", "copy"), ("proved_broadcast_vs_memcpy", "install")):
            sent = [seconds_to_send(receivers, method, weights) for _ in range(ROUNDS)]
            ratios = [one / (WORKERS * min(copied)) for one in sent]
            tell(name, ratios, megabytes=megabytes, seconds=min(sent), memcpy_seconds=min(copied))
        for receiver in receivers:
            ray.kill(receiver)


if __name__ == "__main__":
    main()
