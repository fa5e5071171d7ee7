"""How pictures of an evaluation are drawn, with a denoiser that can be checked by hand."""

from dataclasses import replace

import pytest
import torch

from raypref.core.process import MIN_STD
from raypref.train.drawing import Compared, Edited, Plain
from raypref.train.rollout import onward
from tests.toys import ToyDenoiser, chunk_of, drive, toy_walk

CHUNK = chunk_of(("a", "f"))


def test_a_fresh_adapter_has_not_moved_and_a_bias_moves_by_its_kl():
    walk = toy_walk(ToyDenoiser(), CHUNK)
    drawn, asked = drive(Compared().draw(walk))
    assert asked == []
    assert torch.equal(drawn.kl, torch.zeros(2, 20))
    with torch.no_grad():
        walk.denoiser.bias.fill_(0.3)
    drawn, _ = drive(Compared().draw(walk))
    # The mean moves by k * 0.3 in every element, whatever the state: KL = (0.3 k)^2 / (2 sigma^2).
    process = walk.process
    wanted = (0.3 * process.mean_out) ** 2 / (2 * process.sigma**2)
    torch.testing.assert_close(drawn.kl, wanted.float().expand(2, -1), rtol=1e-3, atol=0)


def test_comparing_does_not_change_what_is_drawn():
    denoiser = ToyDenoiser()
    denoiser.stir()
    plain, compared = (drive(way.draw(toy_walk(denoiser, CHUNK)))[0] for way in (Plain(), Compared()))
    assert torch.equal(plain.x_0, compared.x_0)
    assert plain.kl is None


def test_a_step_without_noise_has_no_kl():
    walk = toy_walk(ToyDenoiser(), CHUNK)
    sigma = walk.process.sigma.clone()
    sigma[-1] = MIN_STD / 2
    drawn, _ = drive(Compared().draw(replace(walk, process=replace(walk.process, sigma=sigma))))
    assert drawn.kl[:, -1].isnan().all()
    assert not drawn.kl[:, :-1].isnan().any()


def test_an_edit_is_the_noised_source_denoised_from_there():
    chunk = replace(CHUNK, sources=(b"1", b"2"))
    latents = torch.stack([torch.full((2, 2, 2), float(number)) for number in (1, 2)])
    walk = replace(toy_walk(ToyDenoiser(), chunk), encode=lambda pictures: latents[[int(one) - 1 for one in pictures]])
    drawn, asked = drive(Edited(0.75).draw(walk))
    assert asked == []
    assert walk.denoiser.batches == [2] * 15
    alpha_bar = walk.denoiser.schedule.alphas_cumprod[int(walk.process.t[5])].float()
    x_t = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * walk.start(1)
    torch.testing.assert_close(drawn.x_0, onward(walk, 5, x_t, walk.predict(5, x_t)))
    whole, _ = drive(Edited(0.01).draw(walk))
    assert float((whole.x_0 - latents).abs().max()) < 0.2  # of the last step's noise, almost nothing is seen
    with pytest.raises(AssertionError, match="no encoder"):
        drive(Edited().draw(replace(walk, encode=None)))
