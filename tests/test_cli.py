"""The commands that only tell."""

import subprocess
import sys
from pathlib import Path

import pytest

from raypref import methods, rewards
from raypref.dry_run import dry_run
from raypref.methods.base import Method
from raypref.registry import named_classes
from raypref.rewards.base import Reward
from tests.recording import small_experiment


def raypref(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "raypref.cli", *words], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(("verb", "package", "base"), [("methods", methods, Method), ("rewards", rewards, Reward)])
def test_the_lists_hold_every_name(verb, package, base):
    printed = raypref(verb)
    for name in named_classes(package, base):
        assert f" {name} " in printed


def test_show_prints_the_resolved_config_and_what_it_costs(tmp_path):
    printed = raypref("show", "experiments/quickstart.toml", f"run.output_dir={tmp_path}")
    assert "psi_lambda = 5.0" in printed
    assert "# pairs an iteration: at most 24" in printed
    assert not any(Path(tmp_path).iterdir())


def test_help_loads_nothing_heavy():
    code = "import sys; import raypref.cli; print([m for m in ('torch', 'ray', 'diffusers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_dry_run_counts_pairs_and_updates(random_model):
    facts = dry_run(small_experiment(random_model))
    assert facts["pairs an iteration"].startswith("at most 12 ")
    assert facts["optimizer updates an iteration"] == "2"
