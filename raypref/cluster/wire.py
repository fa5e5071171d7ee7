"""How values cross process borders: tensors as numpy arrays on the way, as owned copies on arrival.

numpy arrays travel through Ray's object store without a copy, but arrive read-only and shared with every other reader;
a tensor that aliased one could corrupt its neighbours' data. So `unpack` copies, but for `borrow`.
"""

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedTensor:
    """A tensor's bytes; bfloat16, which numpy lacks, goes as int16."""

    array: np.ndarray
    dtype: torch.dtype


@dataclass(frozen=True)
class PackedRecord:
    """A dataclass by its fields."""

    kind: type
    fields: dict[str, Any]


def pack(value: Any) -> Any:
    """Replaces every tensor in nested dataclasses, dicts, tuples and lists by a PackedTensor."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        array = plain.view(torch.int16).numpy() if plain.dtype == torch.bfloat16 else plain.numpy()
        return PackedTensor(array, plain.dtype)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return PackedRecord(type(value), {f.name: pack(getattr(value, f.name)) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(pack(item) for item in value)
    return value


def unpack(value: Any) -> Any:
    """The inverse of `pack`; every tensor owns its memory."""
    return _unpack(value, np.copy)


def borrow(value: Any) -> Any:
    """The inverse of `pack` for what is only read, and no longer than the call that brought it: tensors are views of
    the object store. Weights are: whoever installs them copies them once, into its parameters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return _unpack(value, lambda array: array)


def _unpack(value: Any, own: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(value, PackedTensor):
        tensor = torch.from_numpy(own(value.array))
        return tensor.view(torch.bfloat16) if value.dtype == torch.bfloat16 else tensor
    if isinstance(value, PackedRecord):
        return value.kind(**{name: _unpack(item, own) for name, item in value.fields.items()})
    if isinstance(value, dict):
        return {key: _unpack(item, own) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_unpack(item, own) for item in value)
    return value
