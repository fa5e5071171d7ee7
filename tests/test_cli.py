"""The commands that only tell."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from raypref import methods, rewards
from raypref.cli import app, main
from raypref.data.hub import Unreachable
from raypref.dry_run import dry_run
from raypref.methods.base import Method
from raypref.registry import named_classes
from raypref.rewards.base import Reward
from raypref.rewards.colorfulness import Colorfulness
from raypref.rewards.remote import Remote
from tests.recording import small_experiment


@pytest.fixture
def raypref(monkeypatch, capsys):
    """What the command line prints."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["raypref", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(("verb", "package", "base"), [("methods", methods, Method), ("rewards", rewards, Reward)])
def test_the_lists_hold_every_name(raypref, verb, package, base):
    printed = raypref(verb)
    for name in named_classes(package, base):
        assert f" {name} " in printed


def test_show_prints_the_resolved_config_and_what_it_costs(raypref, tmp_path):
    printed = raypref("show", "experiments/quickstart.toml", f"run.output_dir={tmp_path}")
    assert "psi_lambda = 5.0" in printed
    assert "# pairs an iteration: at most 24" in printed
    assert "# place of the learner: 0.5 CPU, on a node with ray.io/market-type = !spot; 1 of them" in printed
    assert "# place of a sampler: 0.5 CPU; 1 to 2 of them" in printed
    assert "reward worker" not in printed  # samplers score for themselves
    assert "# memory of a sampler's rewards, on top: " in printed
    assert "# reserved: 1 CPU, 0 GPUs to start, 1.5 CPUs, 0 GPUs when all have joined" in printed
    assert not any(Path(tmp_path).iterdir())


def test_show_needs_neither_the_prompts_nor_the_model(raypref, monkeypatch, random_model: Path, tmp_path: Path):
    """A small model in the place of the published one: its counting takes long."""
    shutil.copytree(random_model, tmp_path / "stable_diffusion")
    known = {"model": "owner/known", "text_encoders": {"text_encoder": 1000}}
    (tmp_path / "stable_diffusion" / "published.json").write_text(json.dumps(known))
    monkeypatch.setattr("raypref.models.size.ARCHITECTURES", tmp_path)

    def away(*words: object, **settings: object) -> None:
        raise Unreachable("neither in the Hub's cache nor to be downloaded")

    monkeypatch.setattr("raypref.data.prompts.dataset_files", away)
    recipe = "experiments/rdpo/table8/sd15_aesthetic_rdpo.toml"
    printed = raypref("show", recipe, "model.path=owner/name", "run.prompts=owner/set:train")
    assert "# prompts: not all of them are here to be counted" in printed
    assert "# memory of the learner: 0.00 GB of weights and optimizer" in printed
    assert "# memory, of what: owner/known with its own VAE, by their configs" in printed
    printed = raypref("show", "experiments/quickstart.toml", "run.heldout_prompts=owner/set:test")
    assert "# pictures an evaluation: 4 a prompt" in printed


COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_is_shown_as_it_is_written(raypref, verb):
    def letters(text: str) -> str:
        return "".join(text.split())

    command = COMMANDS[verb]
    shown = letters(raypref(verb, "--help"))
    for written in (command.help, *(parameter.help or "" for parameter in command.params)):
        assert letters(written) in shown


def test_the_list_of_commands_shows_names_in_brackets(raypref):
    assert "[data]" in raypref("--help")


def test_help_loads_nothing_heavy():
    code = "import sys; import raypref.cli; print([m for m in ('torch', 'ray', 'diffusers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_driver_whose_models_are_its_workers_affair_loads_no_library_of_theirs():
    code = """
import sys
from pathlib import Path
from raypref.config import load_experiment
import raypref.run
load_experiment(Path("experiments/quickstart.toml"))
late = ("diffusers", "peft", "transformers", "torch._dynamo", "matplotlib", "tensorboard")
print([module for module in late if module in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_dry_run_counts_pairs_and_updates(random_model):
    facts = dry_run(small_experiment(random_model))
    assert facts["pairs an iteration"].startswith("at most 12 ")
    assert facts["optimizer updates an iteration"] == "2"


def test_a_reward_can_be_served_to_a_run_elsewhere():
    command = [sys.executable, "-m", "raypref.cli", "serve-reward", "colorfulness", "--port", "0"]
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            name, _, url = server.stdout.readline().strip().partition(" at ")
            assert name == "colorfulness"
            assert torch.equal(Remote(url).score(images, ["a", "b"]), Colorfulness().score(images, ["a", "b"]))
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vp_score"], "error: reward.checkpoint is missing: vp_score needs it"),
        (["vp_score", "checkpoint=x.pt"], "error: reward.checkpoint = 'x.pt': no such file"),
        (["colourfulness"], "error: reward.name = 'colourfulness': there is no such reward: did you mean"),
        (["colorfulness", "--host", "256.1.1.1"], "error: --host 256.1.1.1 --port 8000: "),
        (["colorfulness", "--port", "80000"], "error: --host 127.0.0.1 --port 80000: "),
    ],
)
def test_what_cannot_be_served_is_one_line(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["raypref", "serve-reward", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_one_reward_or_family_is_found_without_the_libraries_of_the_others():
    program = (
        "import sys\n"
        "from raypref import rewards\n"
        "from raypref.registry import named_classes\n"
        "from raypref.rewards.base import Reward\n"
        "named_classes(rewards, Reward)['jpeg_compressibility'], named_classes(rewards, Reward)['prompt_match']\n"
        "assert 'raypref.rewards.image_reward' not in sys.modules, 'all were imported'\n"
        "assert 'nothing' not in named_classes(rewards, Reward)\n"
        "assert 'raypref.rewards.image_reward' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
