"""What every model family must do, on random models of the real classes."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from raypref import models
from raypref.checks import ConfigError, check_experiment
from raypref.core.search import Search
from raypref.methods.d3po import D3PO
from raypref.methods.ddpo import DDPO
from raypref.methods.rdpo import RDPO
from raypref.methods.spo import SPO
from raypref.models.base import Decoder, ModelConfig, ModelFamily
from raypref.models.decoder import load_tiny_decoder
from raypref.models.guided import GuidedDenoiser
from raypref.registry import named_classes
from raypref.train.experiment import SamplingConfig
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from raypref.train.scorer import Scorer
from tests.conftest import MakeExperiment
from tests.recording import Recording
from tests.smallest import smallest_experiment

FAMILIES = named_classes(models, ModelFamily)
SAMPLING = {"stable_diffusion": "ddim", "sdxl": "ddim", "sd3": "flow"}
PROMPTS = ("a b", "c", "a b")


@pytest.fixture
def folders(random_model: Path, random_sdxl: Path, random_sd3: Path) -> dict[str, Path]:
    return {"stable_diffusion": random_model, "sdxl": random_sdxl, "sd3": random_sd3}


@pytest.fixture(params=sorted(FAMILIES))
def config(request: pytest.FixtureRequest, folders: dict[str, Path]) -> ModelConfig:
    return ModelConfig(family=request.param, path=str(folders[request.param]), device="cpu")


def loaded(config: ModelConfig, **changes: object) -> GuidedDenoiser:
    return FAMILIES[config.family].denoiser(replace(config, **changes))


def stir(denoiser: GuidedDenoiser, size: float = 0.3) -> None:
    noise = torch.randn(denoiser.parameters.flat.shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        denoiser.parameters.flat.add_(size * noise)


def states() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([951, 401, 1])


@torch.no_grad()
def prediction(denoiser: GuidedDenoiser, scale: float = 3.0) -> Tensor:
    return denoiser.predict(*states(), PROMPTS, scale)


def slope(denoiser: GuidedDenoiser) -> Tensor:
    out = denoiser.predict(*states(), PROMPTS, 3.0)
    parameters = list(denoiser.parameters.parameters.values())
    return torch.cat([g.flatten() for g in torch.autograd.grad(out.square().sum(), parameters)])


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_the_reference_is_the_pretrained_model_bit_for_bit(config: ModelConfig):
    for mode, size in (("lora", 0.3), ("full", 0.03)):
        denoiser = loaded(config, train=mode)
        base = prediction(denoiser)
        stir(denoiser, size)
        moved = prediction(denoiser)
        with torch.no_grad(), denoiser.reference():
            assert torch.equal(prediction(denoiser), base)
        assert torch.equal(prediction(denoiser), moved)
        assert relative(moved, base) > 1e-2


def test_prompt_and_time_matter_and_company_does_not(config: ModelConfig):
    denoiser, (x_t, t) = loaded(config), states()
    out = prediction(denoiser)
    with torch.no_grad():
        assert relative(denoiser.predict(x_t, t, ("z", "z", "z"), 3.0), out) > 1e-3
        assert relative(denoiser.predict(x_t, t.flip(0), PROMPTS, 3.0), out) > 1e-3
        alone = loaded(config).predict(x_t[1:2], t[1:2], PROMPTS[1:2], 3.0)
    torch.testing.assert_close(alone, out[1:2], rtol=1e-4, atol=1e-5)


def test_the_exported_adapter_predicts_the_same_in_plain_diffusers(config: ModelConfig, tmp_path: Path):
    denoiser = loaded(config, lora_rank=3, lora_alpha=5)
    stir(denoiser)
    denoiser.export(tmp_path)
    plain = loaded(config, train="full")  # no adapter of ours
    base = prediction(plain)
    plain.pipe.load_lora_weights(tmp_path)
    assert relative(prediction(plain), prediction(denoiser)) < 1e-5
    assert relative(base, prediction(denoiser)) > 1e-2


def test_full_fine_tuning_exports_a_network_that_diffusers_loads(config: ModelConfig, tmp_path: Path):
    denoiser = loaded(config, train="full")
    stir(denoiser, 0.03)
    denoiser.export(tmp_path)
    assert denoiser.parameters.flat.numel() == sum(p.numel() for p in denoiser.network.parameters())
    other = loaded(config)
    name = type(other).network_name
    network = type(other.network).from_pretrained(tmp_path)
    pipe = DiffusionPipeline.from_pretrained(config.path, **{name: network})
    other.network = getattr(pipe, name)
    assert torch.equal(prediction(other), prediction(denoiser))


@pytest.mark.parametrize("method", [RDPO(), SPO(), DDPO()], ids=lambda method: method.name)
def test_it_trains_with_trees_and_chains(config: ModelConfig, make_experiment: MakeExperiment, method):
    sampling = SamplingConfig(scheduler=SAMPLING[config.family], num_inference_steps=4, guidance_scale=2.0)
    plan = smallest_experiment(make_experiment, method, model=config, sampling=sampling)
    check_experiment(plan)
    runtime, seen = LocalRuntime(plan), Recording()
    fresh = runtime.learner.weights(0)
    train(plan, runtime, seen)
    assert all(report.pairs > 0 and not report.alarms for report in seen.reports)
    assert not torch.equal(runtime.learner.weights(2).flat, fresh.flat)


@pytest.mark.parametrize("method", [RDPO(search=Search(steps=(0, 2)))], ids=["rdpo"])
def test_full_fine_tuning_trains(config: ModelConfig, make_experiment: MakeExperiment, method):
    sampling = SamplingConfig(scheduler=SAMPLING[config.family], num_inference_steps=4, guidance_scale=2.0)
    plan = smallest_experiment(make_experiment, method, model=replace(config, train="full"), sampling=sampling)
    runtime = LocalRuntime(plan)
    denoiser = runtime.learner.denoiser
    base = prediction(denoiser)
    train(plan, runtime, Recording())
    assert relative(prediction(denoiser), base) > 1e-3
    with torch.no_grad(), denoiser.reference():
        assert torch.equal(prediction(denoiser), base)


def test_gradient_checkpointing_is_the_same_gradient(config: ModelConfig):
    plain, thrifty = loaded(config), loaded(config, gradient_checkpointing=True)
    for denoiser in (plain, thrifty):
        stir(denoiser)
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    sizes = []
    for denoiser in (plain, thrifty):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            denoiser.predict(*states(), PROMPTS, 3.0)
        sizes.append(sum(saved))
    assert sizes[1] < 0.5 * sizes[0]
    torch.testing.assert_close(slope(thrifty), slope(plain), rtol=1e-4, atol=1e-5)


def test_slicing_is_the_same_decoder_and_so_is_tiling_of_small_pictures(config: ModelConfig):
    latents, family = states()[0], FAMILIES[config.family]
    wanted = family.decoder(config).decode(latents)
    assert wanted.shape == (3, 3, 16, 16)
    assert (wanted.dtype, float(wanted.std()) > 0.01) == (torch.float32, True)
    for switch in ("vae_slicing", "vae_tiling"):
        found = family.decoder(replace(config, **{switch: True})).decode(latents)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_tiling_decodes_a_large_picture_tile_by_tile(config: ModelConfig):
    family, latents = FAMILIES[config.family], torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    tiled = family.decoder(replace(config, vae_tiling=True))
    sizes: list[int] = []
    tiled.vae.decoder.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[-1]))
    whole, found = family.decoder(config).decode(latents), tiled.decode(latents)
    assert found.shape == whole.shape
    assert len(sizes) > 1
    assert max(sizes) <= 8
    assert relative(found, whole) < 0.3


def test_dropped_text_encoders_leave_predictions_and_free_their_memory(config: ModelConfig):
    denoiser = loaded(config)
    wanted = prediction(loaded(config))
    denoiser.free_text_encoders(set(PROMPTS))
    assert not any(name.startswith("text_encoder") and module for name, module in denoiser.pipe.components.items())
    assert torch.equal(prediction(denoiser), wanted)
    with pytest.raises(RuntimeError, match=r"prompt 'new' is new, and model\.free_text_encoders"):
        denoiser.predict(*states(), ("a b", "c", "new"), 3.0)


def test_texts_that_were_forgotten_are_encoded_again_to_the_same_bits(config: ModelConfig, monkeypatch):
    wanted = prediction(loaded(config))
    monkeypatch.setattr("raypref.models.guided.KEPT_TEXTS", 1)
    denoiser = loaded(config)
    for _ in range(2):
        assert torch.equal(prediction(denoiser), wanted)
        assert len(denoiser._texts) == 1


def test_an_empty_tokenizer_is_refused_whichever_it_is(config: ModelConfig, tmp_path: Path):
    names = [path.name for path in Path(config.path).glob("tokenizer*")]
    assert len(names) == {"stable_diffusion": 1, "sdxl": 2, "sd3": 3}[config.family]
    for name in names:
        folder = shutil.copytree(config.path, tmp_path / name)
        for file in (folder / name).iterdir():
            if file.name != "tokenizer_config.json":
                file.unlink()
        with pytest.raises(OSError, match=rf"the {name} of .* knows \d+ words|tokenizer"):
            loaded(config, path=str(folder))


def test_a_half_precision_variant_is_loaded_by_its_name(config: ModelConfig, tmp_path: Path):
    pipe = DiffusionPipeline.from_pretrained(config.path)
    pipe.to(dtype=torch.float16).save_pretrained(tmp_path, variant="fp16")
    family, network = FAMILIES[config.family], type(loaded(config)).network_name
    with pytest.raises(ValueError, match=rf"{network} has no variant None; model\.variant can be 'fp16'"):
        family.check(replace(config, path=str(tmp_path)))
    with pytest.raises(ValueError, match=rf"{network} has no variant 'bf16'; model\.variant can be 'fp16'"):
        family.check(replace(config, path=str(tmp_path), variant="bf16"))
    half = replace(config, path=str(tmp_path), variant="fp16")
    family.check(half)
    denoiser = loaded(half)
    assert denoiser.network.dtype == torch.float32
    assert relative(prediction(denoiser), prediction(loaded(config))) < 2e-2
    assert family.decoder(half).decode(states()[0]).shape == (3, 3, 16, 16)


def test_another_familys_checkpoint_is_refused_by_what_it_has_or_lacks(config: ModelConfig):
    for name, family in FAMILIES.items():
        if name != config.family:
            with pytest.raises(ValueError, match=rf"\(StableDiffusion.*Pipeline\) (lacks|has) .*family .*{name}"):
                family.check(config)


def test_a_wrong_scheduler_is_refused_before_anything_loads(config: ModelConfig, make_experiment: MakeExperiment):
    for scheduler in ("ddim", "ddpm", "flow"):
        sampling = SamplingConfig(scheduler=scheduler, num_inference_steps=5, guidance_scale=2.0)
        plan = make_experiment(model=config, sampling=sampling)
        if scheduler in FAMILIES[config.family].schedulers:
            check_experiment(plan)
            continue
        with pytest.raises(
            ConfigError, match=rf"sampling\.scheduler = '{scheduler}': model\.family = '{config.family}'"
        ):
            check_experiment(plan)
        with pytest.raises(ValueError, match="not a step of a"):
            sampling.process(loaded(config).schedule)


def test_a_chain_over_all_steps_of_a_flow_is_told_to_leave_out_the_last(
    random_sd3: Path, make_experiment: MakeExperiment
):
    model = ModelConfig(family="sd3", path=str(random_sd3), device="cpu")
    sampling = SamplingConfig(scheduler="flow", num_inference_steps=20)
    with pytest.raises(ConfigError, match=r"step 19 .* is deterministic .* leave out the last step"):
        check_experiment(make_experiment(D3PO(), model=model, sampling=sampling))


OFFLINE = """
import torch
from raypref import models
from raypref.models.base import ModelConfig, ModelFamily
from raypref.registry import named_classes
for name, family in named_classes(models, ModelFamily).items():
    config = ModelConfig(family=name, path=f"somebody/{name}", revision="COMMIT", device="cpu")
    family.check(config)
    out = family.denoiser(config).predict(torch.ones(1, 4, 8, 8), torch.tensor([500]), ("a",), 2.0)
    print(name, *family.decoder(config).decode(out).shape)
"""


@pytest.mark.slow
def test_pinned_hub_models_in_the_cache_need_no_network(folders: dict[str, Path], tmp_path: Path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name, folder in folders.items():
        shutil.copytree(folder, tmp_path / f"hub/models--somebody--{name}/snapshots" / commit)
    surroundings = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", OFFLINE.replace("COMMIT", commit)]
    run = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == [f"{name} 1 3 16 16" for name in sorted(folders)]


def test_a_single_file_of_pickles_or_without_a_layout_is_refused(config: ModelConfig, tmp_path: Path):
    family = FAMILIES[config.family]
    for name, message in (
        ("model.ckpt", "no .safetensors file"),
        ("model.safetensors", "set model.single_file_config"),
    ):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=message):
            family.check(replace(config, path=str(tmp_path / name)))


class Grey(Decoder):
    """A decoder whose pictures are the first value of their latent, and its own level."""

    def __init__(self, level: float) -> None:
        self.level = level

    def decode(self, latents: Tensor) -> Tensor:
        return (latents[:, 0, 0, 0] + self.level)[:, None, None, None].expand(-1, 3, 4, 4)


@pytest.mark.parametrize(
    ("times", "wanted"),
    [([0, 5, 0, 7], [10, 21, 12, 23]), ([0, 0, 0, 0], [10, 11, 12, 13]), ([1, 2, 3, 4], [20, 21, 22, 23])],
)
def test_a_tiny_decoder_takes_predictions_and_the_full_one_finished_pictures(times: list[int], wanted: list[int]):
    x_0 = torch.zeros(4, 4, 2, 2)
    x_0[:, 0] = torch.arange(4.0)[:, None, None]
    images = Scorer(Grey(10), (), early=Grey(20))._decode(x_0, torch.tensor(times))
    assert images[:, 0, 0, 0].tolist() == wanted


@torch.no_grad()
def test_the_tiny_decoder_is_diffusers(config: ModelConfig, random_tiny_vae: Path):
    latents = states()[0]
    tiny = AutoencoderTiny.from_pretrained(random_tiny_vae)
    wanted = (tiny.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(
        load_tiny_decoder(replace(config, tiny_vae=str(random_tiny_vae))).decode(latents), wanted
    )


@torch.no_grad()
def test_another_vae_takes_the_place_of_the_checkpoints(config: ModelConfig, tmp_path: Path):
    family, latents = FAMILIES[config.family], states()[0]
    shutil.copytree(Path(config.path) / "vae", tmp_path / "vae")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: 0.5 * value for name, value in weights.items()}, file, {"format": "pt"})
    found = family.decoder(replace(config, vae=str(tmp_path / "vae"))).decode(latents)
    assert relative(found, family.decoder(config).decode(latents)) > 1e-2
