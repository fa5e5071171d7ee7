"""What to do where a GPU's memory is too small: the one place that knows which switch helps which role."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from raypref.train.stopped import StoppedRun

Role = Literal["sampler", "reward worker", "learner", "data worker"]

SWITCHES: dict[Role, tuple[str, ...]] = {
    "sampler": (
        'model.dtype = "bfloat16"',
        "model.free_text_encoders = true",
        "model.cpu_offload = true where roles share a GPU",
        "a smaller run.chunk_size",
        "fewer method.search.candidates",
    ),
    "reward worker": (
        "model.vae_slicing = true",
        "model.vae_tiling = true",
        "model.tiny_vae",
        'model.dtype = "bfloat16"',
    ),
    "learner": (
        "a smaller optimizer.micro_batch_size",
        "model.gradient_checkpointing = true",
        'model.dtype = "bfloat16"',
        "model.free_text_encoders = true",
        "model.cpu_offload = true where roles share a GPU",
        'model.train = "lora" and a smaller model.lora_rank',
    ),
    "data worker": ("model.vae_tiling = true", 'model.dtype = "bfloat16"'),
}
"""The cheapest first."""


class OutOfMemory(StoppedRun):
    """A role's device has no room; says which switches to try."""


@contextmanager
def explaining_out_of_memory(role: Role) -> Iterator[None]:
    """Turns torch's error into one that names the switches; for use as a decorator of what a role does.

    Raises:
        OutOfMemory: in the place of torch.OutOfMemoryError.
    """
    try:
        yield
    except torch.OutOfMemoryError as problem:
        reason = str(problem).split("\n")[0].split(". GPU")[0].rstrip(".")
        raise OutOfMemory(
            f"the {role} ran out of memory: {reason}. Try, in this order: {', '.join(SWITCHES[role])}; "
            "or give it a device of its own ([cluster])"
        ) from None
