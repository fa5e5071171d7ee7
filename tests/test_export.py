"""A finished run's weights in every layout, their metadata and their card."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from raypref import models
from raypref.cli import main
from raypref.config import load_experiment
from raypref.data.preference_source import DataConfig
from raypref.dry_run import dry_run
from raypref.methods.dro import DRO
from raypref.methods.kto import KTO
from raypref.methods.regression import RegressionMethod
from raypref.methods.spin import SPIN
from raypref.model_card import _summary, front_matter
from raypref.models.base import ModelConfig, ModelFamily
from raypref.models.guided import GuidedDenoiser
from raypref.models.lora_layout import LORA_FILE
from raypref.provenance import provenance, public
from raypref.registry import named_classes
from raypref.report import write_report
from raypref.run import resume, train
from raypref.run_directory import RunDirectory
from raypref.train.experiment import Experiment, RewardConfig, RunConfig
from tests.conftest import MakeExperiment, small_toml

pytestmark = pytest.mark.usefixtures("undrawn")

FAMILIES = named_classes(models, ModelFamily)
PROMPTS = ("a b", "c", "a b")


def run_of(toml: Path, family: str, model: Path, *overrides: str) -> RunDirectory:
    flow = ["sampling.scheduler=flow"] if family == "sd3" else []
    words = [f"model.family={family}", f"model.path={model}", "run.iterations=1", "model.lora_alpha=6", *flow]
    return RunDirectory(train(load_experiment(toml, [*words, *overrides])))


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def run(
    request: pytest.FixtureRequest,
    undrawn: None,
    tmp_path_factory: pytest.TempPathFactory,
    random_model: Path,
    random_sdxl: Path,
    random_sd3: Path,
) -> RunDirectory:
    folders = {"stable_diffusion": random_model, "sdxl": random_sdxl, "sd3": random_sd3}
    return run_of(small_toml(tmp_path_factory.mktemp("run"), random_model), request.param, folders[request.param])


def raypref(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raypref", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@torch.no_grad()
def prediction(denoiser: GuidedDenoiser) -> Tensor:
    x_t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return denoiser.predict(x_t, torch.tensor([951, 401, 1]), PROMPTS, 3.0)


def plain(config: ModelConfig, **changes: object) -> GuidedDenoiser:
    """Without an adapter of ours."""
    return FAMILIES[config.family].denoiser(replace(config, train="full", **changes))


def trained(run: RunDirectory) -> Tensor:
    """What the run's own LoRA predicts in plain diffusers."""
    denoiser = plain(run.experiment().model)
    denoiser.pipe.load_lora_weights(run.lora)
    assert float((prediction(denoiser) - prediction(plain(run.experiment().model))).norm()) > 1e-2
    return prediction(denoiser)


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as content:
        return content.metadata()


def test_kohya_s_layout_predicts_the_same(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "new" / "mine.safetensors"
    assert raypref(monkeypatch, "export", run.path, "--layout", "kohya", "--output", file) == 0
    state, wanted = load_file(file), trained(run)
    assert metadata(file) == metadata(run.lora_file)
    network = "transformer" if run.experiment().model.family == "sd3" else "unet"
    assert all(re.fullmatch(rf"lora_{network}_\w+\.(lora_(down|up)\.weight|alpha)", key) for key in state)
    # By the rule of ComfyUI, in float64: modules by their path with underscores, alpha / rank up down added to each.
    added = plain(run.experiment().model)
    with torch.no_grad():
        for name, module in added.network.named_modules():
            key = f"lora_{network}_{name.replace('.', '_')}"
            if f"{key}.alpha" in state:
                alpha, down, up = (
                    state.pop(f"{key}.{what}").double() for what in ("alpha", "lora_down.weight", "lora_up.weight")
                )
                module.weight.add_(alpha / len(down) * up @ down)
    assert not state
    torch.testing.assert_close(prediction(added), wanted, rtol=1e-4, atol=1e-4)
    if network == "unet":  # diffusers' loader knows no layout of kohya's for transformers
        loaded = plain(run.experiment().model)
        loaded.pipe.load_lora_weights(tmp_path / "new", weight_name=file.name)
        torch.testing.assert_close(prediction(loaded), wanted, rtol=1e-4, atol=1e-4)


def test_the_merged_pipeline_predicts_the_same_without_an_adapter(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert raypref(monkeypatch, "export", run.path, "--layout", "merged", "--output", tmp_path / "merged") == 0
    config = run.experiment().model
    denoiser = plain(config, path=str(tmp_path / "merged"))
    torch.testing.assert_close(prediction(denoiser), trained(run), rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name, _ in denoiser.network.named_modules())
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "merged")
    assert pipe("a b", num_inference_steps=2, output_type="latent").images.shape == (1, 4, 8, 8)


def test_a_whole_network_is_merged_too(toml: Path, random_model: Path, tmp_path: Path, monkeypatch):
    run = run_of(toml, "stable_diffusion", random_model, "model.train=full")
    assert raypref(monkeypatch, "export", run.path, "--layout", "merged", "--output", tmp_path / "merged") == 0
    network, merged = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in
                       (run.network, tmp_path / "merged" / "unet"))  # fmt: skip
    assert all(torch.equal(value, merged[key]) for key, value in network.items())
    for folder in (run.network, tmp_path / "merged"):  # diffusers notes where it has read a network or a pipeline from
        told = "".join(file.read_text() for file in folder.rglob("*.json"))
        assert "_class_name" in told
        assert "name_or_path" not in told
        assert str(random_model) not in told
    card = (run.network / "README.md").read_text()
    assert "unet = UNet2DConditionModel.from_pretrained(" in card
    assert "\n- lora\n" not in card


def test_diffusers_layout_is_the_run_s_own_file(toml: Path, random_model: Path, tmp_path: Path, monkeypatch):
    run, file = run_of(toml, "stable_diffusion", random_model), tmp_path / "mine.safetensors"
    assert raypref(monkeypatch, "export", run.path, "--layout", "diffusers", "--output", file) == 0
    assert file.read_bytes() == run.lora_file.read_bytes()


@pytest.fixture
def toy_run(tmp_path: Path, toml: Path) -> RunDirectory:
    """A run directory as it is before the run ends."""
    return RunDirectory.create(load_experiment(toml, ["run.name=unfinished"]))


@pytest.mark.parametrize(
    ("layout", "output", "finished", "said"),
    [
        (
            "kohya",
            "x.safetensors",
            False,
            "it has no pytorch_lora_weights.safetensors yet; finish it with `raypref resume",
        ),
        ("lycoris", "x.safetensors", True, "--layout lycoris: choose from diffusers, kohya, merged"),
        ("kohya", "x", True, "--output x: --layout kohya is one file; name it x.safetensors"),
        ("kohya", ".", True, "--output .: it exists; name a new file"),
        ("merged", ".", True, "--output .: it exists; name a new folder"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    toy_run: RunDirectory, monkeypatch, capsys, layout, output, finished, said
):
    if finished:
        toy_run.lora.mkdir()
        toy_run.lora_file.touch()
    assert raypref(monkeypatch, "export", toy_run.path, "--layout", layout, "--output", output) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_the_file_says_where_it_comes_from_and_nothing_of_the_place(toml: Path, random_model: Path, tmp_path: Path):
    run = run_of(toml, "stable_diffusion", random_model, "method.beta=0.3")
    told = metadata(run.lora_file)
    assert {name: told[f"raypref.{name}"] for name in ("method", "reward", "iterations", "base_model")} == {
        "method": "rdpo",
        "reward": "colorfulness",
        "iterations": "1",
        "base_model": random_model.name,
    }
    assert json.loads(told["raypref.config"])["method"]["beta"] == 0.3
    assert json.loads(told["raypref.versions"]).keys() >= {"raypref", "torch", "diffusers", "peft"}
    everything = json.dumps(told) + (run.lora / "README.md").read_text()
    for place in (str(tmp_path), str(random_model.parent), "runs/"):
        assert place not in everything


@pytest.mark.parametrize("layout", ["local", "resumed"])
def test_the_same_run_leaves_the_same_folder(toml: Path, tmp_path: Path, layout: str):
    whole = RunDirectory(train(load_experiment(toml, ["run.iterations=2"])))
    words = [f"run.output_dir={tmp_path}/others", "run.iterations=2"]
    if layout == "resumed":
        other = RunDirectory(train(load_experiment(toml, [*words, "run.iterations=1"])))
        resume(other.path, ["run.iterations=2"])
    else:
        other = RunDirectory(train(load_experiment(toml, words)))
    files = [{path.name: path.read_bytes() for path in run.lora.iterdir()} for run in (whole, other)]
    assert files[0] == files[1]
    assert files[0].keys() == {LORA_FILE, "README.md", "before_and_after.png"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/home/me/rewards/mine.py:score", "mine.py:score"),
        ("rewards/mine.py:score", "mine.py:score"),
        ("C:\\Users\\me\\mine.safetensors", "mine.safetensors"),
        ("tiny", "tiny"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("/home/me/models/mine", "mine"),
        ("~/models/mine.safetensors", "mine.safetensors"),
        ("../mine", "mine"),
        ("raypref/assets/tiny", "tiny"),
        ("https://example.org/weights/head.pth", "head.pth"),
        ("http://10.0.0.5:8000", ""),
        ("to_out.0", "to_out.0"),
    ],
)
def test_names_are_public_and_places_are_not(name: str, told: str):
    assert public(name) == told


def test_a_reward_s_settings_are_told_without_their_places(make_experiment: MakeExperiment):
    reward = RewardConfig("mixture", (), {"parts": [{"name": "remote", "settings": {"url": "http://10.0.0.5:8000"}}]})
    assert "10.0.0.5" not in json.dumps(provenance(make_experiment(reward=reward)))


def parsed(experiment: Experiment) -> dict:
    return yaml.safe_load(front_matter(experiment))


def test_the_front_matter_is_what_the_hub_expects(make_experiment: MakeExperiment):
    hub_id = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert parsed(make_experiment(model=ModelConfig(path=hub_id))) == {
        "base_model": hub_id,
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "stable-diffusion", "lora", "raypref", "rdpo", "colorfulness"],
    }
    full = parsed(make_experiment(model=ModelConfig(path=hub_id, train="full")))
    assert full["base_model_relation"] == "finetune"
    assert "lora" not in full["tags"]
    assert "base_model" not in parsed(make_experiment())  # a folder, which the Hub knows nothing of


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (KTO(), "aligned by raypref: method `kto`, labelled pictures of pairs, judged"),
        (SPIN(), "aligned online by raypref: method `spin`, labelled pictures of pairs and the policy's own, judged"),
        (
            DRO(),
            "aligned online by raypref: method `dro`, labelled pictures of pairs and the policy's own trajectories",
        ),
    ],
)
def test_labelled_pictures_are_not_called_a_reward(make_experiment: MakeExperiment, method: RegressionMethod, told):
    experiment = make_experiment(method=method, data=DataConfig(path="/home/me/pairs"))
    assert told in _summary(experiment)
    assert "colorfulness" not in parsed(experiment)["tags"]
    assert "datasets" not in parsed(experiment)
    metadata = provenance(experiment)
    assert metadata["raypref.data"] == "pairs"
    assert "raypref.reward" not in metadata
    of_the_hub = make_experiment(method=method, data=DataConfig(path="me/pairs"))
    assert parsed(of_the_hub)["datasets"] == ["me/pairs"]


def test_the_card_shows_the_run_s_own_figures(toml: Path, random_model: Path):
    run = run_of(toml, "stable_diffusion", random_model)
    card, (base, final) = (run.lora / "README.md").read_text(), run.all_evaluations()
    _, matter, text = card.split("---\n", 2)
    assert yaml.safe_load(matter)["library_name"] == "diffusers"
    for evaluation in (base, final):
        assert f"{evaluation.rewards['colorfulness'].mean:.4f} ± " in text
        assert f"{evaluation.diversity:.4f}" in text
    assert all(prompt in text for prompt in run.experiment().heldout_prompts)
    assert f"{run.rows(run.metrics)[-1]['pairs']} pairs in all" in text
    assert "(before_and_after.png)" in text
    before, sheet = Image.open(run.grid(0)), Image.open(run.lora / "before_and_after.png")
    assert sheet.size == (2 * before.width + 24, before.height)
    assert sheet.crop((0, 0, *before.size)).tobytes() == before.tobytes()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    here = code.replace(f'"{random_model.name}"', repr(str(random_model)))
    exec(here.replace('"this repository, or a folder with its files"', repr(str(run.lora))), {})


@pytest.mark.parametrize(
    ("heldout", "told", "others"),
    [
        ("", "These are training prompts,", ("held-out", "Held-out", "not train on")),
        ("a yak\n", "Prompts that this run did not train on,", ("raining prompts",)),
    ],
)
def test_the_card_and_the_report_say_whether_what_is_judged_was_trained_on(toml: Path, heldout, told, others):
    if heldout:
        (toml.parent / "heldout.txt").write_text(heldout)
    words = ["run.heldout_prompts=heldout.txt"] if heldout else []
    run = RunDirectory(train(load_experiment(toml, ["run.iterations=1", *words])))
    card = (run.lora / "README.md").read_text()
    assert told in card
    assert not any(other in card for other in others)
    page = write_report(run).read_text()
    assert ("<h2>Held-out prompts</h2>" in page, "<h2>Training prompts</h2>" in page) == (bool(heldout), not heldout)
    assert not any(other in page.replace("heldout_prompts", "") for other in others)


def test_prompts_of_which_some_are_trained_on_are_counted(make_experiment: MakeExperiment):
    experiment = make_experiment(prompts=("a", "b"), heldout_prompts=("b", "c", "b"))
    assert experiment.judged_on() == "prompts, 1 of them trained on"
    assert dry_run(experiment)["prompts"].endswith("3 to be judged on: prompts, 1 of them trained on")


def test_a_run_that_starts_from_a_lora_says_so_and_notices_another_file(
    toml: Path, random_model: Path, monkeypatch, capsys
):
    first = run_of(toml, "stable_diffusion", random_model)
    words = [f"model.lora_weights={first.lora}", "run.name=second"]
    second = run_of(toml, "stable_diffusion", random_model, *words)
    assert metadata(second.lora_file)["raypref.lora_weights"] == "lora"
    assert "It continues the LoRA `lora`" in (second.lora / "README.md").read_text()
    train(load_experiment(toml, ["run.iterations=2", "run.seed=3"]), overwrite=True)
    assert raypref(monkeypatch, "resume", second.path, "run.iterations=2") == 2
    assert "model.lora_weights' file = " in capsys.readouterr().err


def test_the_metadata_names_the_revision(make_experiment: MakeExperiment):
    model = ModelConfig(path="me/mine", revision="abc")
    told = provenance(make_experiment(model=model, run=RunConfig(iterations=7)))
    assert (told["raypref.revision"], told["raypref.iterations"]) == ("abc", "7")
    assert "raypref.revision" not in provenance(make_experiment())
