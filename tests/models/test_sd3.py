"""SD3 against diffusers' pipeline, used by hand."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import Tensor

from raypref.core.process import flow
from raypref.core.schedule import FlowSchedule
from raypref.models.base import ModelConfig
from raypref.models.sd3 import SD3, SD3Denoiser, read_flow_schedule


def config(folder: Path, **changes: object) -> ModelConfig:
    return ModelConfig(**({"family": "sd3", "path": str(folder), "device": "cpu"} | changes))


def start(count: int = 1) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def trajectory(denoiser: SD3Denoiser, steps: int, eta: float, scale: float) -> Tensor:
    process, x_t = flow(denoiser.schedule, steps, eta), start()
    for step in range(steps):
        out = denoiser.predict(x_t, process.t[step][None], ("a b",), scale)
        x_t = process.reverse(torch.tensor([step]), x_t, out).mean
    return x_t


@pytest.mark.parametrize("with_t5", [True, False], ids=["T5", "no T5"])
@torch.no_grad()
def test_a_whole_trajectory_is_the_pipelines(random_sd3: Path, with_t5: bool):
    """Guidance, the texts of three encoders, the time that the network is fed, the shift; at eta = 0 and near it."""
    left_out = {} if with_t5 else {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(random_sd3, **left_out)
    pipe.set_progress_bar_config(disable=True)
    wanted = pipe("a b", latents=start(), num_inference_steps=9, guidance_scale=4.0, output_type="latent").images
    denoiser = SD3.denoiser(config(random_sd3, text_encoder_3=with_t5))
    assert (denoiser.pipe.text_encoder_3 is not None) == with_t5
    torch.testing.assert_close(trajectory(denoiser, 9, 0.0, 4.0), wanted, rtol=1e-3, atol=1e-4)
    nearly = trajectory(denoiser, 9, 0.01, 4.0)
    assert 0 < float((nearly - wanted).norm() / wanted.norm()) < 1e-2
    assert float((trajectory(denoiser, 9, 0.0, 1.5) - wanted).norm() / wanted.norm()) > 1e-3


def test_a_checkpoint_without_t5_says_how_to_do_without(random_sd3: Path, tmp_path: Path):
    folder = shutil.copytree(random_sd3, tmp_path / "sd3")
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / name)
    SD3.check(config(random_sd3))
    SD3.check(config(folder, text_encoder_3=False))
    with pytest.raises(ValueError, match=r"has no text_encoder_3; set model\.text_encoder_3 = false"):
        SD3.check(config(folder))
    assert SD3.denoiser(config(folder, text_encoder_3=False)).pipe.text_encoder_3 is None


def test_the_shift_is_read_from_the_checkpoint(random_sd3: Path):
    assert SD3.denoiser(config(random_sd3)).schedule == FlowSchedule(num_train_timesteps=1000, shift=3.0)
    assert read_flow_schedule(FlowMatchEulerDiscreteScheduler(shift=1.5)).shift == 1.5


@pytest.mark.parametrize("switch", ["use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas"])
def test_grids_that_are_not_a_fixed_shift_are_refused(switch: str):
    with pytest.raises(ValueError, match=f"sets {switch}: only the grid of a fixed shift"):
        read_flow_schedule(FlowMatchEulerDiscreteScheduler(**{switch: True}))


def test_a_scheduler_that_is_no_flow_is_refused():
    with pytest.raises(ValueError, match="scheduler is a DDIMScheduler, which has no shift"):
        read_flow_schedule(DDIMScheduler())


@torch.no_grad()
def test_the_decoder_undoes_scale_and_shift(random_sd3: Path):
    pipe = StableDiffusion3Pipeline.from_pretrained(random_sd3)
    assert pipe.vae.config.shift_factor == 0.1
    raw = pipe.vae.decode(start(2) / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample
    wanted = pipe.image_processor.postprocess(raw, output_type="pt")
    torch.testing.assert_close(SD3.decoder(config(random_sd3)).decode(start(2)), wanted)


@torch.no_grad()
def test_the_pooled_embedding_and_every_encoder_matter(random_sd3: Path):
    denoiser, t = SD3.denoiser(config(random_sd3)), torch.tensor([500.0])
    out = denoiser.predict(start(), t, ("a",), 1.0)
    other = denoiser.texts(("b c",))
    text = denoiser.texts(("a",)) | {"pooled_projections": other["pooled_projections"]}
    assert float((denoiser.out(start(), t, text) - out).abs().max()) > 1e-5
    for tokens in (slice(0, 16), slice(16, None)):  # CLIP's sixteen, then T5's
        mixed = denoiser.texts(("a",))["encoder_hidden_states"].clone()
        mixed[:, tokens] = other["encoder_hidden_states"][:, tokens]
        text = denoiser.texts(("a",)) | {"encoder_hidden_states": mixed}
        assert float((denoiser.out(start(), t, text) - out).abs().max()) > 1e-6
