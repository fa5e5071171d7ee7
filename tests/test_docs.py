"""What the README and the docs show, works."""

import dataclasses
import functools
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from ray.scripts.scripts import cli as ray_cli

from raypref import methods, rewards
from raypref.cli import app
from raypref.config import fill, load_experiment
from raypref.data.preference_source import DataConfig
from raypref.methods.base import Method
from raypref.models.base import TINY, ModelConfig
from raypref.models.stable_diffusion import StableDiffusion
from raypref.registry import named_classes
from raypref.rewards.base import Reward
from raypref.train.experiment import ClusterConfig
from raypref.train.loop import train
from raypref.train.runtime import LocalRuntime
from raypref.tune.study import TuneConfig, load_study
from tests.recording import Recording, small_experiment

README = Path("README.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for kind in ("sh", "python")}
TUNE = Path("docs/tune.md").read_text()
OTHERS = "".join(Path(f"docs/{name}.md").read_text() for name in ("tune", "data", "evaluation"))
SHELL = [*BLOCKS["sh"], *re.findall(r"```sh\n(.*?)```", OTHERS, re.DOTALL)]
COMMANDS = [line.partition("#")[0].strip() for block in SHELL for line in block.splitlines() if line.strip()]


@functools.cache
def help_text() -> str:
    command = [sys.executable, "-m", "raypref.cli", "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_exists(command):
    if command == ". .venv/bin/activate":
        return
    program, verb, *words = shlex.split(command)
    if program == "make":
        subprocess.run(["make", "--dry-run", verb], check=True, capture_output=True)
        return
    assert program == "raypref"
    assert re.search(rf"\b{verb}\b", help_text())
    if words and words[0].startswith("experiments/"):
        load_experiment(Path(words[0]), [word for word in words[1:] if "=" in word])


PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *Path("docs").glob("*.md"), *Path("experiments").rglob("*.md")]
VERBS = {
    "raypref": {command.name or command.callback.__name__ for command in app.registered_commands},
    "ray": set(ray_cli.commands),
    "make": set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), re.MULTILINE)),
}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_within_the_text_exist_too(page):
    for program, verb in re.findall(r"`(raypref|ray|make)\s+([a-z][\w-]*)", page.read_text()):
        assert verb in VERBS[program], f"{program} {verb}"
    for module in re.findall(r"python -m\s+((?:raypref|experiments|benchmarks)\.[\w.]+)", page.read_text()):
        assert importlib.util.find_spec(module), module


def test_the_page_of_data_names_every_key_of_the_section_and_what_it_shows_loads():
    page = Path("docs/data.md").read_text()
    for field in dataclasses.fields(DataConfig):
        assert f"| `{field.name}` |" in page, field.name
    shown = tomllib.loads(next(block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)))
    assert fill(DataConfig(), shown["data"], "data").duplicate_prompts == "first"


def test_the_page_of_clusters_names_every_key_of_the_section():
    page = Path("docs/cluster.md").read_text()
    for field in dataclasses.fields(ClusterConfig):
        assert re.search(rf"`(cluster\.)?{field.name}\b", page), field.name


def test_the_section_that_docs_show_is_a_study(tmp_path):
    section = next(block for block in re.findall(r"```toml\n(.*?)```", TUNE, re.DOTALL))
    quickstart = Path("experiments/quickstart.toml").resolve()
    (tmp_path / "study.toml").write_text(quickstart.read_text() + section)
    prompts = [f"run.{name}={quickstart.parent}/prompts/animals_train.txt" for name in ("prompts", "heldout_prompts")]
    study = load_study(tmp_path / "study.toml", prompts)
    assert len(study.points()) == 36
    for name in TuneConfig.__dataclass_fields__:
        assert f"| `{name}` |" in TUNE, name


def test_the_method_of_the_readme_trains(random_model, tmp_path, monkeypatch):
    (tmp_path / "hinge_dpo.py").write_text(next(block for block in BLOCKS["python"] if "HingeDPO" in block))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    found = named_classes(methods, Method)["hinge_dpo"]
    experiment = small_experiment(random_model, iterations=1)
    method = found(search=dataclasses.replace(found().search, steps=(0, 2, 4)))
    seen, experiment = Recording(), dataclasses.replace(experiment, method=method)
    train(experiment, LocalRuntime(experiment), seen)
    assert seen.reports[0].metrics["loss"] == pytest.approx(1.0, abs=0.2)


def test_the_diffusers_snippet_draws_with_the_exported_lora(tmp_path, monkeypatch):
    denoiser = StableDiffusion.denoiser(ModelConfig())
    denoiser.export(tmp_path / "lora")
    snippet = next(block for block in BLOCKS["python"] if "load_lora_weights" in block)
    code = snippet.replace("raypref/assets/tiny", str(TINY)).replace("runs/quickstart/lora", str(tmp_path / "lora"))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert Image.open("fish.png").size == (64, 64)


def test_the_method_table_lists_every_method():
    for name in named_classes(methods, Method):
        assert re.search(rf"^\| .*`{name}`.* \|", README, re.MULTILINE), name


def test_readme_and_docs_list_every_reward():
    for name, reward in named_classes(rewards, Reward).items():
        assert f"`{name}`" in README, name
        assert re.search(rf"^\| .*`{name}`.* \| {'(yes|if )' if reward.differentiable else 'no'}.*\|$",
                         Path("docs/rewards.md").read_text(), re.MULTILINE), name  # fmt: skip


def test_docs_name_a_download_for_every_default_of_a_reward():
    told = set(re.findall(r"^hf download (\S+/\S+)", Path("docs/rewards.md").read_text(), re.MULTILINE))
    defaults = {
        "/".join(setting.default.split("/")[:2])
        for reward in named_classes(rewards, Reward).values()
        for setting in inspect.signature(reward).parameters.values()
        if isinstance(setting.default, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)+", setting.default)
    }
    assert told == defaults | {"xswu/HPSv2"}  # whose file depends on the version


def test_the_tree_names_every_module():
    for path in Path("raypref").glob("*"):
        if path.name not in ("__init__.py", "__pycache__", "registry.py"):
            assert path.name in README, path
