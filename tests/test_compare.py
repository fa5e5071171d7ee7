"""Runs side by side on one page."""

import re
from pathlib import Path

import pytest

from raypref.checks import ConfigError
from raypref.compare import Compared, _draw_training, compare
from raypref.config import load_experiment
from raypref.figures import draw_by_step, draw_ratios
from raypref.methods.d3po import D3PO
from raypref.methods.diffusion_dpo import DiffusionDPO
from raypref.methods.rdpo import RDPO
from raypref.run import train
from raypref.run_directory import RunDirectory
from tests.conftest import small_toml
from tests.toy_runtime import ToyRuntime, toy_experiment


@pytest.fixture(scope="module")
def runs(tmp_path_factory, random_model):
    config = small_toml(tmp_path_factory.mktemp("compared"), random_model)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("raypref.run.start_runtime", ToyRuntime)
        patched.setattr("raypref.run.write_report", lambda directory: directory.report)
        return [
            train(load_experiment(config, [f"run.name={name}", *changes]))
            for name, *changes in (("one",), ("two", "method.beta=0.5", "run.iterations=2"))
        ]


def test_the_page_is_self_contained_and_shows_what_differs(runs, tmp_path):
    page = compare(runs, tmp_path / "page.html").read_text()
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    settings = page[page.index("What differs") : page.index("Before and after")]
    assert "<td>method.beta</td>" in settings
    assert "run.iterations" in settings
    assert "run.name" not in settings
    assert "method.psi_lambda" not in settings
    assert page.count("<svg") == 2
    assert page.count("data:image/png") == 3 * 3  # base, one, two: a row a prompt
    assert "<th>one</th><th>two</th>" in page


def drawn(label, method, kl):
    """A run as far as its training curves are concerned."""
    rows = [{"iteration": 1, "kl": kl, "loss": 0.5, "rho_win": kl, "rho_lose": -kl, "by_step": {"kl": {"0": kl}}}]
    return Compared(label, RunDirectory(Path(label)), toy_experiment(method), [], rows)


def test_distances_to_the_reference_of_two_kinds_are_not_on_one_axis():
    runs = [drawn("a", RDPO(), 0.25), drawn("b", DiffusionDPO(), 70.0), drawn("c", D3PO(), 0.5)]
    panels = {axes.get_ylabel(): axes for axes in _draw_training(runs).axes}
    assert list(panels) == ["KL to the reference", "|policy - reference|² of outputs", "loss"]
    shown = {label: {line.get_label(): line.get_ydata()[0] for line in axes.lines} for label, axes in panels.items()}
    assert shown["KL to the reference"] == {"a": 0.25, "c": 0.5}
    assert shown["|policy - reference|² of outputs"] == {"b": 70.0}
    assert shown["loss"] == {"a": 0.5, "b": 0.5, "c": 0.5}


NAMES = {
    RDPO(): ("log policy / reference", "KL to the reference"),
    DiffusionDPO(): ("squared error, reference - policy", "|policy - reference|² of outputs"),
}


@pytest.mark.parametrize("draw", [draw_ratios, draw_by_step])
def test_a_report_calls_the_distance_what_it_is(draw):
    for method, names in NAMES.items():
        left = draw(method, drawn("a", method, 0.25).rows).axes[0]
        assert left.get_ylabel() == names[0]
        assert names[1] in [line.get_label() for line in left.lines]


def test_answers_are_shown_run_by_run(runs, tmp_path):
    cell = {"mean": 0.75, "standard_error": 0.1, "low": 0.5, "high": 0.9, "n": 3}
    answer = {
        "question": "win_rate", "caption": "c", "heads": ["against"], "columns": ["win rate"], "notes": [],
        "rows": [{"labels": ["base"], "cells": [cell]}],
        "settings": {}, "contenders": [{"label": "one", "reward": "r", "iteration": 4}], "images_per_prompt": 2,
        "sampling": {"num_inference_steps": 6, "scheduler": "ddim", "guidance_scale": 5.0}, "seed": 0,
    }  # fmt: skip
    RunDirectory.open(runs[0]).save_answer(answer)
    page = compare(runs, tmp_path / "page.html").read_text()
    assert "Questions to one" in page
    assert "Questions to two" not in page
    assert "0.75 ± 0.1" in page


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="two run directories or more"):
        compare(runs[:1], tmp_path / "page.html")
    with pytest.raises(ConfigError, match="no folder"):
        compare(runs, tmp_path / "nowhere" / "page.html")
    with pytest.raises(ConfigError, match="it is a folder; name a file"):
        compare(runs, tmp_path)
    with pytest.raises(ConfigError, match=r"no config\.toml"):
        compare([runs[0], tmp_path], tmp_path / "page.html")
