"""Weights prove what they are: nothing but the exact bits under the exact names is accepted."""

import hashlib
from dataclasses import replace

import pytest
import torch

from raypref.core.weights import UNPROVED, FlatParameters, Manifest, Weights, WeightsError, checksum


def parameters(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"b.up": (3, 2), "a.down": (2, 3), "c.bias": (4,)}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


@pytest.fixture
def flat() -> FlatParameters:
    return FlatParameters(parameters(0))


@pytest.fixture
def sent() -> Weights:
    return FlatParameters(parameters(1)).take(5)


def test_values_and_order_survive_the_move_into_one_buffer():
    plain = parameters(0)
    values = {name: parameter.detach().clone() for name, parameter in plain.items()}
    flat = FlatParameters(plain)
    assert flat.names() == ("a.down", "b.up", "c.bias")
    assert flat.shapes() == ((2, 3), (3, 2), (4,))
    assert all(torch.equal(plain[name], value) for name, value in values.items())
    assert torch.equal(flat.flat, torch.cat([values[name].flatten() for name in ("a.down", "b.up", "c.bias")]))


def test_parameters_are_views_of_the_buffer_both_ways():
    plain = parameters(0)
    flat = FlatParameters(plain)
    with torch.no_grad():
        flat.flat.fill_(2.0)
        plain["c.bias"][1] = 7.0
    assert plain["a.down"].detach().eq(2.0).all()
    assert float(flat.flat[13]) == 7.0


def test_an_optimizer_step_reaches_the_buffer():
    plain = parameters(0)
    flat = FlatParameters(plain)
    before = flat.flat.clone()
    sum((p**2).sum() for p in plain.values()).backward()
    torch.optim.SGD(plain.values(), lr=0.1).step()
    torch.testing.assert_close(flat.flat, before * 0.8)


def test_a_round_trip_is_bit_exact(flat: FlatParameters, sent: Weights):
    flat.install(sent)
    assert torch.equal(flat.flat, sent.flat)
    assert (flat.version, flat.checksum) == (5, sent.manifest.checksum)
    again = flat.take(6)
    assert torch.equal(again.flat, sent.flat)
    assert again.manifest == replace(sent.manifest, version=6)


def test_what_was_taken_does_not_follow_the_live_weights(flat: FlatParameters):
    taken = flat.take(0)
    kept = taken.flat.clone()
    with torch.no_grad():
        flat.flat.add_(1)
    assert torch.equal(taken.flat, kept)


def test_the_checksum_is_blake2b_of_the_bytes():
    values = torch.tensor([1.0, -2.5])
    # 1.0f = 0x3f800000 and -2.5f = 0xc0200000, little-endian.
    wanted = hashlib.blake2b(bytes.fromhex("0000803f000020c0"), digest_size=16).hexdigest()
    assert checksum(values) == wanted


def refuse(flat: FlatParameters, weights: Weights, match: str) -> None:
    version = flat.version
    with pytest.raises(WeightsError, match=match):
        flat.install(weights)
    assert flat.version in (version, UNPROVED[0])


def test_a_dropped_key_is_refused(flat: FlatParameters, sent: Weights):
    old = sent.manifest
    before = flat.flat.clone()
    manifest = Manifest(5, old.names[:-1], old.shapes[:-1], checksum(sent.flat[:-4]))
    refuse(flat, Weights(manifest, sent.flat[:-4]), r"missing \['c.bias'\], unknown \[\] \(1 and 0 in all\)")
    assert torch.equal(flat.flat, before)


def test_a_renamed_key_is_refused(flat: FlatParameters, sent: Weights):
    before = flat.flat.clone()
    manifest = replace(sent.manifest, names=("a.down", "b.upp", "c.bias"))
    refuse(flat, Weights(manifest, sent.flat), r"missing \['b.up'\], unknown \['b.upp'\]")
    assert torch.equal(flat.flat, before)


def test_a_key_too_many_is_refused(flat: FlatParameters, sent: Weights):
    manifest = replace(sent.manifest, names=(*sent.manifest.names, "d"), shapes=(*sent.manifest.shapes, (1,)))
    refuse(flat, Weights(manifest, torch.cat([sent.flat, torch.zeros(1)])), r"unknown \['d'\]")


def test_a_wrong_shape_is_refused_although_the_count_is_right(flat: FlatParameters, sent: Weights):
    before = flat.flat.clone()
    manifest = replace(sent.manifest, shapes=((3, 2), (3, 2), (4,)))
    refuse(flat, Weights(manifest, sent.flat), "order or the shapes")
    assert torch.equal(flat.flat, before)


def test_a_swapped_order_is_refused(flat: FlatParameters, sent: Weights):
    manifest = replace(sent.manifest, names=("b.up", "a.down", "c.bias"), shapes=((3, 2), (2, 3), (4,)))
    refuse(flat, Weights(manifest, sent.flat), "order or the shapes")


def test_a_swapped_order_of_equal_shapes_is_refused():
    # Shapes and checksum would agree, and every value would land in the wrong parameter.
    flat = FlatParameters({name: torch.nn.Parameter(torch.zeros(2)) for name in ("a", "b")})
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    refuse(flat, Weights(Manifest(1, ("b", "a"), ((2,), (2,)), checksum(values)), values), "order or the shapes")
    assert torch.count_nonzero(flat.flat) == 0


def test_one_flipped_bit_is_refused(flat: FlatParameters, sent: Weights):
    damaged = sent.flat.clone()
    damaged.view(torch.int32)[7] ^= 1
    refuse(flat, Weights(sent.manifest, damaged), "checksum .* was sent")


def test_what_was_refused_does_not_pass_for_the_version_before(flat: FlatParameters, sent: Weights):
    flat.install(sent)
    other = Weights(replace(sent.manifest, version=2), sent.flat + 1)
    refuse(flat, other, "checksum .* was sent")
    assert (flat.version, flat.checksum) == UNPROVED


def test_swapped_values_are_refused(flat: FlatParameters, sent: Weights):
    refuse(flat, Weights(sent.manifest, sent.flat.flip(0)), "checksum .* was sent")


def test_parameters_that_left_the_buffer_are_noticed(sent: Weights):
    plain = parameters(0)
    flat = FlatParameters(plain)
    plain["b.up"].data = plain["b.up"].data.clone()  # as module.to(device) would do
    refuse(flat, sent, "checksum .* of the live parameters")
