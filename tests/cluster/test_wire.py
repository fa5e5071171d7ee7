"""Values survive the border between processes bit for bit, and own their memory afterwards."""

import pickle

import pytest
import torch

from raypref.cluster.wire import borrow, pack, unpack
from raypref.core.seeding import Key
from raypref.core.types import Transitions
from raypref.core.weights import Manifest, Weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_every_dtype_survive(dtype):
    tensor = (10 * Key(0).normal(3, 5)).to(dtype)
    arrived = unpack(pickle.loads(pickle.dumps(pack(tensor))))  # noqa: S301
    assert arrived.dtype == dtype
    assert torch.equal(arrived, tensor)


def test_records_survive_whole():
    weights = Weights(Manifest(3, ("a",), ((2,),), "x"), torch.tensor([1.0, 2.0]))
    arrived = unpack(pack({"history": [weights], 4: ("text", None)}))
    assert arrived["history"][0].manifest == weights.manifest
    assert torch.equal(arrived["history"][0].flat, weights.flat)
    assert arrived[4] == ("text", None)


def test_an_arrived_tensor_shares_no_memory():
    packed = pack(torch.zeros(3))
    first, second = unpack(packed), unpack(packed)
    first.add_(1)
    assert torch.equal(second, torch.zeros(3))
    assert torch.equal(unpack(packed), torch.zeros(3))


def test_what_is_borrowed_is_a_view():
    tensor = torch.zeros(3)
    view = borrow(pack({"a": tensor}))["a"]
    tensor.add_(1)
    assert torch.equal(view, torch.ones(3))


def test_a_batch_survives():
    batch = Transitions(
        ("p", "q"),
        torch.tensor([0, 4]),
        Key(1).normal(1, 2, 4, 8, 8),
        Key(2).normal(2, 2, 4, 8, 8),
        Key(3).normal(2, 2),
        torch.ones(2),
    )
    arrived = unpack(pack(batch))
    assert arrived.prompts == batch.prompts
    assert torch.equal(arrived.x_s, batch.x_s)
