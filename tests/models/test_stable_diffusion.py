"""The model family against diffusers used by hand, on a random model of the real classes."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from torch import Tensor

from raypref.core.process import ddim
from raypref.models.base import ModelConfig
from raypref.models.compiled import WrongGradient, check_compiled
from raypref.models.stable_diffusion import StableDiffusion, StableDiffusionDenoiser, read_schedule

PROMPTS = ("a b", "c", "a b")


def config(path: Path, **changes: object) -> ModelConfig:
    return ModelConfig(**({"path": str(path), "device": "cpu"} | changes))


def loaded(path: Path, **changes: object) -> StableDiffusionDenoiser:
    return StableDiffusion.denoiser(config(path, **changes))


def pipeline(path: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(path, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def states(seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.tensor([951, 401, 1])


def by_hand(pipe: StableDiffusionPipeline, x_t: Tensor, t: Tensor, prompts: tuple[str, ...], scale: float) -> Tensor:
    """Classifier-free guidance as diffusers' pipeline writes it, one latent at a time."""

    def out(row: int, prompt: str) -> Tensor:
        tokens = pipe.tokenizer(
            prompt,
            padding="max_length",
            max_length=pipe.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        text = pipe.text_encoder(tokens.input_ids)[0]
        return pipe.unet(x_t[row : row + 1], t[row], encoder_hidden_states=text).sample

    with torch.no_grad():
        empty = torch.cat([out(row, "") for row in range(len(prompts))])
        full = torch.cat([out(row, prompt) for row, prompt in enumerate(prompts)])
    return empty + scale * (full - empty)


def stir(denoiser: StableDiffusionDenoiser) -> None:
    noise = torch.randn(denoiser.parameters.flat.shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        denoiser.parameters.flat.copy_(0.3 * noise)


@pytest.mark.parametrize("scale", [1.0, 5.0])
@torch.no_grad()
def test_guidance_is_that_of_diffusers(random_model: Path, scale: float):
    x_t, t = states()
    found = loaded(random_model).predict(x_t, t, PROMPTS, scale)
    torch.testing.assert_close(found, by_hand(pipeline(random_model), x_t, t, PROMPTS, scale), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_prompt_and_the_time_matter(random_model: Path):
    denoiser, (x_t, t) = loaded(random_model), states()
    out = denoiser.predict(x_t, t, PROMPTS, 5.0)
    assert float((out - denoiser.predict(x_t, t, ("z", "z", "z"), 5.0)).abs().max()) > 1e-4
    assert float((out - denoiser.predict(x_t, t.flip(0), PROMPTS, 5.0)).abs().max()) > 1e-4


@torch.no_grad()
def test_a_fresh_adapter_and_an_adapter_that_is_off_are_the_base_bit_for_bit(random_model: Path):
    denoiser, (x_t, t) = loaded(random_model), states()
    base = denoiser.predict(x_t, t, PROMPTS, 3.0)
    with denoiser.reference():
        assert torch.equal(denoiser.predict(x_t, t, PROMPTS, 3.0), base)
    stir(denoiser)
    assert not torch.equal(denoiser.predict(x_t, t, PROMPTS, 3.0), base)
    with denoiser.reference():
        assert torch.equal(denoiser.predict(x_t, t, PROMPTS, 3.0), base)
    assert not torch.equal(denoiser.predict(x_t, t, PROMPTS, 3.0), base)


def test_the_adapter_comes_back_after_an_error_in_the_reference(random_model: Path):
    denoiser, (x_t, t) = loaded(random_model), states()
    stir(denoiser)
    with torch.no_grad():
        wanted = denoiser.predict(x_t, t, PROMPTS, 3.0)
        with pytest.raises(KeyError), denoiser.reference():
            raise KeyError
        assert torch.equal(denoiser.predict(x_t, t, PROMPTS, 3.0), wanted)


def test_only_the_adapter_is_trained_and_without_dropout(random_model: Path):
    denoiser = loaded(random_model)
    trained = {name for name, parameter in denoiser.network.named_parameters() if parameter.requires_grad}
    assert trained == set(denoiser.parameters.names())
    assert all("lora_" in name for name in trained)
    assert len({name for name in trained if "to_out.0" in name}) == len(trained) // 4
    assert not any(p.requires_grad for p in denoiser.pipe.text_encoder.parameters())
    assert not denoiser.network.training
    drop = [module.p for module in denoiser.network.modules() if isinstance(module, torch.nn.Dropout)]
    assert all(p == 0 for p in drop)


def test_gradients_flow_through_both_halves_of_guidance(random_model: Path):
    # out = (1 - s) out(empty) + s out(prompt): with s = 1 only the prompt's half, and the gradient is linear in s.
    denoiser, (x_t, t) = loaded(random_model), states()
    weights = list(denoiser.parameters.parameters.values())

    def slope(scale: float) -> Tensor:
        out = denoiser.predict(x_t, t, PROMPTS, scale)
        return torch.cat([g.flatten() for g in torch.autograd.grad(out.sum(), weights)])

    one, three, five = slope(1.0), slope(3.0), slope(5.0)
    torch.testing.assert_close(five - three, three - one, rtol=1e-3, atol=1e-4)
    assert float((three - 3 * one).abs().max()) > 1e-3


def test_every_worker_starts_from_the_same_adapter(random_model: Path):
    torch.manual_seed(1)
    one = loaded(random_model, lora_rank=2)
    torch.manual_seed(2)
    two = loaded(random_model, lora_rank=2)
    assert torch.equal(one.parameters.flat, two.parameters.flat)
    down = torch.cat([p.detach().flatten() for n, p in one.parameters.parameters.items() if "lora_A" in n])
    up = torch.cat([p.detach().flatten() for n, p in one.parameters.parameters.items() if "lora_B" in n])
    assert torch.count_nonzero(up) == 0
    assert float(down.std()) == pytest.approx(0.5, rel=0.15)  # N(0, 1 / rank^2), a few hundred draws


def test_weights_of_one_worker_make_another_predict_the_same_bits(random_model: Path):
    one, two, (x_t, t) = loaded(random_model), loaded(random_model), states()
    stir(one)
    two.parameters.install(one.parameters.take(1))
    with torch.no_grad():
        assert torch.equal(one.predict(x_t, t, PROMPTS, 3.0), two.predict(x_t, t, PROMPTS, 3.0))


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4), (4, 12), (3, 1)])
def test_the_exported_adapter_is_what_diffusers_loads(random_model: Path, tmp_path: Path, rank: int, alpha: int):
    denoiser, (x_t, t) = loaded(random_model, lora_rank=rank, lora_alpha=alpha), states()
    stir(denoiser)
    denoiser.export(tmp_path)
    pipe = pipeline(random_model)
    base = by_hand(pipe, x_t, t, PROMPTS, 5.0)
    pipe.load_lora_weights(tmp_path)
    with torch.no_grad():
        wanted = denoiser.predict(x_t, t, PROMPTS, 5.0)
    found = by_hand(pipe, x_t, t, PROMPTS, 5.0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert float((found - base).abs().max()) > 1e-2


def test_the_same_adapter_is_always_the_same_file(random_model: Path, tmp_path: Path):
    denoiser = loaded(random_model)
    stir(denoiser)
    files = set()
    for _ in range(12):  # the library's own order is one of two, at random
        denoiser.export(tmp_path)
        files.add((tmp_path / "pytorch_lora_weights.safetensors").read_bytes())
    assert len(files) == 1


@torch.no_grad()
def test_company_in_a_batch_does_not_change_an_embedding(random_model: Path):
    one, two = loaded(random_model), loaded(random_model)
    alone = one.texts(("c",))["encoder_hidden_states"]
    assert torch.equal(two.texts(("a b", None, "c", "x y z"))["encoder_hidden_states"][2], alone[0])


def test_the_schedule_is_read_from_the_checkpoint(random_model: Path, random_v_model: Path):
    scheduler = DDIMScheduler.from_pretrained(random_model, subfolder="scheduler")
    schedule = loaded(random_model).schedule
    assert schedule.prediction_type == "epsilon"
    assert torch.equal(schedule.alphas_cumprod, scheduler.alphas_cumprod.double())
    assert schedule.final_alpha_cumprod == float(scheduler.alphas_cumprod[0])
    assert (schedule.timestep_spacing, schedule.steps_offset) == ("leading", 1)
    assert loaded(random_v_model).schedule.prediction_type == "v_prediction"


def test_another_schedule_is_read_as_written():
    schedule = read_schedule(
        DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", steps_offset=0)
    )
    assert schedule.final_alpha_cumprod == 1.0
    assert (schedule.timestep_spacing, schedule.steps_offset) == ("trailing", 0)


@pytest.mark.parametrize("switch", ["clip_sample", "thresholding", "rescale_betas_zero_snr"])
def test_schedulers_without_gaussian_steps_are_refused(switch: str):
    with pytest.raises(ValueError, match=f"sets {switch}"):
        read_schedule(DDIMScheduler(**({"clip_sample": False} | {switch: True})))


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    "sampler",
    [EulerDiscreteScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UniPCMultistepScheduler, DDPMScheduler],
)
def test_a_checkpoint_saved_with_another_sampler_has_the_noise_levels_that_it_was_trained_on(sampler, tmp_path):
    sampler(**BETAS).save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    said = json.loads(file.read_text())
    said.pop("clip_sample", None)  # as most published ones: their samplers do not know it
    file.write_text(json.dumps(said))
    schedule = read_schedule(sampler.from_pretrained(tmp_path))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(schedule.alphas_cumprod, (1 - betas).cumprod(0), rtol=1e-4, atol=0)
    # All else that the file does not say is what DDIM would do.
    wanted = DDIMScheduler.from_config(sampler.from_pretrained(tmp_path).config, clip_sample=False)
    assert schedule.final_alpha_cumprod == float(wanted.final_alpha_cumprod)
    assert (schedule.timestep_spacing, schedule.steps_offset) == (
        wanted.config.timestep_spacing,
        wanted.config.steps_offset,
    )


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler, FlowMatchEulerDiscreteScheduler])
def test_a_checkpoint_of_other_noise_levels_does_not_get_ddims_default_ones(scheduler):
    with pytest.raises(ValueError, match=f"scheduler is a {scheduler.__name__}, whose noise levels are not made from"):
        read_schedule(scheduler())


@torch.no_grad()
def test_pictures_are_those_of_the_pipelines_decoder(random_model: Path):
    latents = states()[0]
    pipe = pipeline(random_model)
    raw = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    wanted = pipe.image_processor.postprocess(raw, output_type="pt")
    found = StableDiffusion.decoder(config(random_model)).decode(latents)
    torch.testing.assert_close(found, wanted)
    assert (found.dtype, found.shape) == (torch.float32, (3, 3, 16, 16))
    assert 0 <= float(found.min()) < float(found.max()) <= 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_whole_trajectory_is_the_pipelines(prediction: str, random_model: Path, random_v_model: Path):
    """Deterministic DDIM from one x_T: raypref's table and diffusers' pipeline end at the same latent."""
    path = random_model if prediction == "epsilon" else random_v_model
    denoiser, start = loaded(path), states()[0][:1]
    wanted = pipeline(path)(
        "a b", latents=start.clone(), num_inference_steps=7, guidance_scale=4.0, eta=0.0, output_type="latent"
    ).images
    process, x_t = ddim(denoiser.schedule, 7, 0.0), start
    with torch.no_grad():
        for step in range(7):
            out = denoiser.predict(x_t, process.t[step][None], ("a b",), 4.0)
            x_t = process.reverse(torch.tensor([step]), x_t, out).mean
    torch.testing.assert_close(x_t, wanted, rtol=1e-3, atol=1e-4)


def test_a_folder_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, random_model: Path):
    StableDiffusion.check(config(random_model))
    StableDiffusion.check(ModelConfig(path="somebody/somewhere"))  # only the hub can tell
    with pytest.raises(ValueError, match=r"no diffusers folder: it has no model_index\.json"):
        StableDiffusion.check(config(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    (tmp_path / "vae").mkdir()
    with pytest.raises(ValueError, match=r"\(FluxPipeline\) lacks scheduler, text_encoder, tokenizer, unet"):
        StableDiffusion.check(config(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 0}, "lora_rank = 0"),
        ({"lora_alpha": -1}, "lora_alpha = -1"),
        ({"lora_target_modules": ()}, "to_q"),
    ],
)
def test_impossible_adapters_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"channels_last": True}, 1e-5),
        ({"dtype": "bfloat16"}, 8e-2),  # guidance magnifies the rounding of eight bits
        ({"dtype": "float16"}, 1e-2),
        pytest.param({"compile": True}, 1e-5, marks=pytest.mark.slow),
    ],
)
def test_a_faster_network_is_the_same_function(random_model: Path, changes: dict[str, object], tolerance: float):
    """Prediction and the adapter's gradient, with the adapter on; and the prediction with it off."""
    x_t, t = states()
    found = []
    for settings in ({}, changes):
        denoiser = loaded(random_model, **settings)
        stir(denoiser)
        if settings.get("compile"):
            try:
                check_compiled(denoiser, PROMPTS[0])
            except WrongGradient as problem:
                pytest.xfail(f"and no learner begins with it: {problem}")
        with torch.no_grad(), denoiser.reference():
            reference = denoiser.predict(x_t, t, PROMPTS, 5.0)
        out = denoiser.predict(x_t, t, PROMPTS, 5.0)
        out.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in denoiser.parameters.parameters.values()])
        found.append((reference, out.detach(), gradient))
    assert relative(found[0][0], found[0][1]) > 2 * tolerance, "the adapter does something"
    for plain, fast in zip(*found, strict=True):
        assert relative(fast, plain) < tolerance


def test_channels_last_reaches_the_convolutions_of_network_and_decoder(random_model: Path):
    networks = (
        loaded(random_model, channels_last=True).network,
        StableDiffusion.decoder(config(random_model, channels_last=True)).vae,
    )
    for network in networks:
        kernels = [p for p in network.parameters() if p.dim() == 4 and min(p.shape) > 1]
        assert kernels
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
