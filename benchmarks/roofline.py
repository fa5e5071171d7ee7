"""Arithmetic of an RDPO iteration against the processor's own rate: `python -m benchmarks.roofline`.

For each part of the work one JSON line: floating-point operations counted by torch, seconds, and the share of the rate
that a large float32 matrix product reaches in the same process.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.work import Ours, plan
from raypref.methods.rdpo import RDPO
from raypref.train.build import claim_threads
from raypref.train.scorer import DECODED_AT_ONCE

SIDE, ROUNDS, PROMPTS, BATCH = 2048, 5, 10, 25
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], object]) -> float:
    """The fastest of ROUNDS, after one that pays for what happens once."""
    found = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def peak() -> float:
    """Floating-point operations a second of a matrix product."""
    a, b = torch.randn(2, SIDE, SIDE, device=DEVICE)
    return 2 * SIDE**3 / seconds(lambda: a @ b)


def parts(ours: Ours) -> dict[str, Callable[[], object]]:
    """What an iteration does, at the batch sizes that it does it in."""
    denoiser, decoder = ours.learner.denoiser, ours.scoring.scorer.decoder
    scale = ours.experiment.sampling.guidance_scale

    def predict(count: int) -> torch.Tensor:
        names = (ours.chunk.prompts * count)[:count]
        return denoiser.predict(torch.randn(count, *denoiser.latent_shape), torch.full((count,), 500), names, scale)

    def train() -> None:
        predict(BATCH).square().mean().backward()
        for parameter in denoiser.parameters.parameters.values():
            parameter.grad = None

    return {
        "guided forward, sampler": torch.no_grad()(lambda: predict(2 * PROMPTS)),
        "guided forward, learner's reference": torch.no_grad()(lambda: predict(BATCH)),
        "guided forward and backward, learner": train,
        "decode": torch.no_grad()(lambda: decoder.decode(torch.randn(DECODED_AT_ONCE, *denoiser.latent_shape))),
    }


def main() -> None:
    experiment = plan(RDPO(), PROMPTS, BATCH)
    claim_threads(experiment)
    channels_last = replace(experiment, model=replace(experiment.model, channels_last=True))
    for name, settings in (("defaults", experiment), ("channels_last", channels_last)):
        rate = peak()
        print(json.dumps({"settings": name, "matrix_product_gflops": round(rate / 1e9, 1)}), flush=True)
        for part, work in parts(Ours(settings)).items():
            work()  # the first time encodes the prompts
            with FlopCounterMode(display=False) as counter:
                work()
            took, count = seconds(work), counter.get_total_flops()
            figures = {
                "gflop": round(count / 1e9, 2),
                "seconds": round(took, 4),
                "share": round(count / took / rate, 3),
            }
            print(json.dumps({"settings": name, "part": part} | figures), flush=True)


if __name__ == "__main__":
    main()
