"""Addressed randomness: the address decides, and nothing else."""

import numpy as np
import pytest
import torch

from raypref.core.seeding import Key


def test_one_address_gives_one_draw_however_often_it_is_asked():
    key = Key(7)("rollout", 3, "a")
    first = key.normal(4, 5)
    key.normal(100)
    assert torch.equal(first, key.normal(4, 5))
    assert torch.equal(first, Key(7)("rollout")(3)("a").normal(4, 5))


@pytest.mark.parametrize(
    "other",
    [
        Key(8)("rollout", 3, 1),
        Key(7)("rollout", 3, 2),
        Key(7)("rollout", 4, 1),
        Key(7)("evaluate", 3, 1),
        Key(7)("rollout", 3, "1"),
        Key(7)("rollout", 3),
        Key(7)("rollout", 3, 1, 0),
        Key(7)("rollout", 1, 3),
        Key(7)("rollout", 31),
        Key(7)("rollout3", 1),
    ],
)
def test_any_change_of_the_address_changes_the_draw(other: Key):
    key = Key(7)("rollout", 3, 1)
    assert key.digest() != other.digest()
    assert not torch.equal(key.normal(8), other.normal(8))


def test_the_hash_is_pinned():
    # BLAKE2b-64 of the text "(0, ('rollout', 1, '2'))" (`b2sum -l 64`), big-endian, without its last bit.
    assert Key(0)("rollout", 1, "2").digest() == 0x3F333891CC275E95 >> 1


def test_digests_fit_the_seed_of_a_generator():
    digests = [Key(0)("x", n).digest() for n in range(200)]
    assert len(set(digests)) == 200
    assert all(0 <= digest < 2**63 for digest in digests)


def test_the_global_generators_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    key = Key(1)("anything")
    key.normal(3)
    key.permutation(9)
    key.integer(5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_global_seeds_do_not_move_addressed_draws():
    torch.manual_seed(1)
    first = Key(1)("x").normal(4)
    torch.manual_seed(2)
    assert torch.equal(first, Key(1)("x").normal(4))


def test_normal_draws_are_float32_and_standard():
    draw = Key(0)("many").normal(200, 200)
    assert draw.dtype == torch.float32
    # 40 000 draws: the standard errors are 0.005 (mean) and 0.0035 (std); five of them are allowed.
    assert abs(float(draw.mean())) < 0.025
    assert abs(float(draw.std()) - 1) < 0.018


def test_a_permutation_holds_everything_once():
    assert sorted(Key(0)("p").permutation(11).tolist()) == list(range(11))


def test_integers_cover_their_range():
    assert {Key(0)("n", n).integer(3) for n in range(50)} == {0, 1, 2}
