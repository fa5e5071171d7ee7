"""Memory of the roles: parameters and peaks against networks that are really there."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch.profiler import ProfilerActivity, profile

from raypref import models
from raypref.checks import ConfigError
from raypref.core.search import Guidance, Search
from raypref.memory import UNKNOWN, memory
from raypref.methods.rdpo import RDPO
from raypref.models.base import ModelConfig, ModelFamily
from raypref.models.checkpoint import read_config
from raypref.models.guided import GuidedDenoiser
from raypref.models.live_memory import decoder_bytes, network_bytes, network_parameters
from raypref.models.size import published, text_encoder_parameters
from raypref.registry import named_classes
from raypref.train.build import build_denoiser
from raypref.train.experiment import ReferenceConfig, SamplingConfig
from raypref.train.learner import Learner
from raypref.train.stopped import StoppedRun
from tests.conftest import MakeExperiment
from tests.hub_cache import COMMIT

ERROR = 1 / 3
"""As `raypref.memory.ERROR` says."""
FAMILIES = named_classes(models, ModelFamily)
COUNTED = {count.__name__: cache(count) for count in (network_bytes, decoder_bytes, network_parameters)}
"""Each a function of its arguments: what several tests ask is counted once."""


@pytest.fixture(autouse=True)
def counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in COUNTED.items():
        monkeypatch.setattr(f"raypref.memory.{name}", count)


@pytest.fixture(params=sorted(FAMILIES))
def config(request: pytest.FixtureRequest, random_model: Path, random_sdxl: Path, random_sd3: Path) -> ModelConfig:
    folders = {"stable_diffusion": random_model, "sdxl": random_sdxl, "sd3": random_sd3}
    return ModelConfig(family=request.param, path=str(folders[request.param]), device="cpu")


def loaded(config: ModelConfig) -> GuidedDenoiser:
    return FAMILIES[config.family].denoiser(config)


def count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for name, p in module.named_parameters() if "lora_" not in name)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 3}, {"lora_target_modules": ("to_q",)}, {"train": "full"}])
def test_parameters_are_those_of_the_loaded_model(config: ModelConfig, changes: dict):
    config = replace(config, **changes)
    denoiser = loaded(config)
    assert network_parameters(FAMILIES[config.family], config) == (
        count(denoiser.network),
        denoiser.parameters.flat.numel(),
    )
    encoders = [module for name, module in denoiser.pipe.components.items() if name.startswith("text_enc") and module]
    assert text_encoder_parameters(config) == count(*encoders)


def test_the_t5_encoder_counts_only_where_it_is_used(random_sd3: Path):
    config = ModelConfig(family="sd3", path=str(random_sd3), device="cpu")
    t5 = count(loaded(config).pipe.text_encoder_3)
    without = replace(config, text_encoder_3=False)
    assert text_encoder_parameters(config) - text_encoder_parameters(without) == t5 > 0


def allocated(compute: Callable[[], None]) -> int:
    """The most bytes that torch's allocator has handed out at once, kernels' workspaces included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        compute()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("training", [False, True])
def test_the_peak_without_data_is_the_peak_with_data(config: ModelConfig, training: bool):
    family, rows = FAMILIES[config.family], 3
    found = network_bytes(family, config, rows, training)
    network = loaded(config).network
    inputs = family.inputs(network.config, rows)

    def compute() -> None:
        with torch.set_grad_enabled(training):
            out = network(**inputs).sample.float()
            if training:
                out.square().sum().backward()

    assert found <= allocated(compute) < (1 + ERROR) * found
    assert found > 2 * network_bytes(family, config, 1, training)


def test_training_needs_more_than_sampling_and_checkpointing_less(config: ModelConfig):
    family = FAMILIES[config.family]
    sampling, learning = (network_bytes(family, config, 4, training) for training in (False, True))
    thrifty = network_bytes(family, replace(config, gradient_checkpointing=True), 4, True)
    assert sampling < thrifty < learning


def test_a_decoder_needs_less_for_one_picture_at_a_time(config: ModelConfig):
    family = FAMILIES[config.family]
    weights, work = decoder_bytes(family, config, 16)
    vae = family.decoder(config).vae
    assert weights == 4 * count(vae)
    _, sliced = decoder_bytes(family, replace(config, vae_slicing=True), 16)
    pictures = 16 * 3 * 16 * 16 * 4
    assert sliced == pytest.approx(work / 16 + 2 * pictures, rel=0.5)
    latents = torch.zeros(16, 4, 8, 8)
    with torch.no_grad():
        assert work <= allocated(lambda: vae.decode(latents).sample.float()) < (1 + ERROR) * work
    half, _ = decoder_bytes(family, replace(config, dtype="bfloat16"), 16)
    assert half == (weights if config.family == "sdxl" else weights / 2)


def test_a_reward_that_guides_needs_the_decoders_graph(config: ModelConfig):
    family = FAMILIES[config.family]
    vae = family.decoder(config).vae
    weights, work = decoder_bytes(family, config, 4, gradient=True)
    latents = torch.zeros(4, 4, 8, 8, requires_grad=True)
    assert work <= allocated(lambda: vae.decode(latents).sample.float().sum().backward()) < (1 + ERROR) * work
    assert (weights, work) > decoder_bytes(family, config, 4)


def work_of(told: dict[str, str], role: str) -> float:
    return float(told[f"memory of {role}"].partition("optimizer, ")[2].partition(" GB at work")[0])


def test_guidance_fused_sampling_and_encoders_that_leave_are_counted(make_experiment: MakeExperiment, monkeypatch):
    monkeypatch.setattr("raypref.memory.GIGABYTE", 1)
    plan = make_experiment(RDPO(search=Search(steps=(0, 2))))
    told = memory(plan)
    guided = RDPO(search=Search(steps=(0, 2), guidance=Guidance("reward_ascent")))
    moved = memory(replace(plan, method=guided))
    assert work_of(moved, "a sampler") > 2 * work_of(told, "a sampler")
    assert work_of(moved, "a reward worker") > 2 * work_of(told, "a reward worker")
    sliced = memory(replace(plan, method=guided, model=replace(plan.model, vae_slicing=True)))
    assert work_of(sliced, "a reward worker") < work_of(moved, "a reward worker") / 8
    fused = memory(replace(plan, run=replace(plan.run, fused_sampling=True)))
    assert work_of(fused, "the learner") > 1.5 * work_of(told, "the learner")  # four pairs, not two
    freed = memory(replace(plan, model=replace(plan.model, free_text_encoders=True)))
    assert freed["memory of the learner"] < told["memory of the learner"]


def test_ranks_need_memory_for_what_they_exchange(make_experiment: MakeExperiment, monkeypatch):
    monkeypatch.setattr("raypref.memory.GIGABYTE", 1)
    plan = make_experiment(RDPO(search=Search(steps=(0, 2))))
    several = replace(plan, cluster=replace(plan.cluster, learner_ranks=2))
    adapter = 4 * network_parameters(FAMILIES[plan.model.family], plan.model)[1]
    told, alone = memory(several), work_of(memory(plan), "the learner")
    assert work_of(told, "a learner's rank") == alone + adapter
    assert "memory of the learner" not in told
    full = replace(several, model=replace(plan.model, train="full"), cluster=replace(plan.cluster, learner_ranks=64))
    gradient = 4 * network_parameters(FAMILIES[plan.model.family], full.model)[1]
    assert work_of(memory(full), "a learner's rank") == (3 + 64) * gradient  # a model so small goes in one slice


def test_every_role_is_told_of_or_what_is_not_known(config: ModelConfig, make_experiment: MakeExperiment):
    flow = SamplingConfig(scheduler=FAMILIES[config.family].schedulers[0], num_inference_steps=5)
    told = memory(make_experiment(model=config, sampling=flow))
    assert [name for name in told if "GB of weights" in told[name]] == [
        "memory of a sampler",
        "memory of the learner",
        "memory of a reward worker",
    ]


def test_an_adapter_on_no_layer_is_one_line(config: ModelConfig, make_experiment: MakeExperiment):
    flow = SamplingConfig(scheduler=FAMILIES[config.family].schedulers[0], num_inference_steps=5)
    nowhere = make_experiment(model=replace(config, lora_target_modules=("to_x",)), sampling=flow)
    with pytest.raises(
        ConfigError,
        match=r"model\.lora_target_modules = to_x: the \w+ has no linear layer of such a name .* to_q, to_k",
    ):
        memory(nowhere)
    with pytest.raises(StoppedRun, match=r"lora_target_modules = to_x: the \w+ has no linear layer"):
        build_denoiser(nowhere)


def test_of_a_model_that_is_not_here_the_familys_best_known_is_told_of(
    config: ModelConfig, make_experiment: MakeExperiment, tmp_path, monkeypatch
):
    """Small ones in the place of the published: their counting takes long."""
    monkeypatch.setattr("raypref.models.size.ARCHITECTURES", tmp_path)
    place = shutil.copytree(config.path, tmp_path / config.family)
    encoders = {folder.name: 1000 for folder in place.glob("text_encoder*")}
    (place / "published.json").write_text(json.dumps({"model": "owner/known", "text_encoders": encoders}))
    flow = SamplingConfig(scheduler=FAMILIES[config.family].schedulers[0], num_inference_steps=5)
    here = memory(make_experiment(model=config, sampling=flow))
    wanted = memory(make_experiment(model=replace(config, path="nobody/has-this-model"), sampling=flow))
    assert wanted.pop("memory, of what").startswith("owner/known with its own VAE, by their configs")
    assert wanted.keys() == here.keys()
    assert work_of(wanted, "the learner") == work_of(here, "the learner")
    for lost in ("vae/config.json", "text_encoder/model.safetensors"):
        half = shutil.copytree(config.path, tmp_path / lost.replace("/", "-"))
        (half / lost).unlink()
        told = memory(make_experiment(model=replace(config, path=str(half)), sampling=flow))
        assert "memory, of what" in told
        assert wanted.items() <= told.items()
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    single = replace(config, path=str(file), single_file_config=config.path)
    assert wanted.items() <= memory(make_experiment(model=single, sampling=flow)).items()
    monkeypatch.setattr("raypref.models.size.ARCHITECTURES", tmp_path / "none")
    assert memory(make_experiment(model=single, sampling=flow)) == {"memory": UNKNOWN}


@pytest.mark.parametrize(
    ("family", "network", "decoder", "encoders"),
    [
        ("stable_diffusion", 859_520_964, 83_653_863, 123_060_480),
        ("sdxl", 2_567_463_684, 83_653_863, 123_060_480 + 694_659_840),
        ("sd3", 2_028_328_000, 83_819_683, 123_650_304 + 694_659_840 + 4_762_310_656),
    ],
)
def test_the_best_known_have_their_published_sizes(family: str, network: int, decoder: int, encoders: int):
    known = published(ModelConfig(family=family, path="not/here"))
    assert known is not None
    assert network_parameters(FAMILIES[family], known[1])[0] == network
    assert text_encoder_parameters(known[1]) == encoders
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(read_config("AutoencoderKL", known[1], "vae"))
    assert sum(parameter.numel() for parameter in vae.parameters()) == decoder


def test_a_model_in_the_hub_s_cache_is_estimated_without_what_diffusers_does_not_download(
    config: ModelConfig, make_experiment: MakeExperiment, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--owner--name"
    shutil.copytree(config.path, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    flow = SamplingConfig(scheduler=FAMILIES[config.family].schedulers[0], num_inference_steps=5)
    here, there = (make_experiment(model=replace(config, path=path), sampling=flow) for path in
                   (config.path, "owner/name"))  # fmt: skip
    assert memory(there) == memory(here)


def test_a_reference_that_follows_the_policy_needs_two_more_copies_and_an_average_one(
    make_experiment: MakeExperiment, monkeypatch
):
    monkeypatch.setattr("raypref.memory.GIGABYTE", 1)
    plan = make_experiment(RDPO(search=Search(steps=(0, 2))))
    full = replace(plan, model=replace(plan.model, train="full"))
    moving = replace(full, reference=ReferenceConfig(update="ema"))
    averaged = replace(full, optimizer=replace(full.optimizer, ema_decay=0.9))
    held, more, mean = (
        float(memory(each)["memory of the learner"].partition(" GB")[0]) for each in (full, moving, averaged)
    )
    trained = network_parameters(FAMILIES[plan.model.family], full.model)[1]
    assert (more - held, mean - held) == (8 * trained, 4 * trained)
    learner = Learner(FAMILIES[plan.model.family].denoiser(full.model), full)
    assert learner.reference._pretrained is None  # the frozen one keeps no copy of its own
