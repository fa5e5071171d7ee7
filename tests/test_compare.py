"""Runs side by side on one page."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from raypref.checks import ConfigError
from raypref.compare import Compared, _before_and_after, _draw_training, _judged, _who, compare
from raypref.config import load_experiment
from raypref.data.preference_source import DataConfig
from raypref.evaluate.heldout import Estimate
from raypref.figures import before_and_after, draw_by_step, draw_ratios
from raypref.methods.d3po import D3PO
from raypref.methods.diffusion_dpo import DiffusionDPO
from raypref.methods.kto import KTO
from raypref.methods.rdpo import RDPO
from raypref.methods.sft import SFT
from raypref.report import figure_section
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
            for name, *changes in (("one",), ("two", "method.beta=0.5", "run.iterations=2"), ("seed", "run.seed=3"))
        ]


def test_the_page_is_self_contained_and_shows_what_differs(runs, tmp_path):
    page = compare(runs[:2], tmp_path / "page.html").read_text()
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    settings = page[page.index("What differs") : page.index("Before and after")]
    assert "<td>method.beta</td>" in settings
    assert "run.iterations" in settings
    assert "run.name" not in settings
    assert "method.psi_lambda" not in settings
    assert page.count("<svg") == 2
    assert page.count("data:image/png") == 3 * 3  # base, one, two: a row a prompt
    assert "<th>base model</th><th>one</th><th>two</th>" in page


def test_base_models_that_drew_otherwise_have_columns_of_their_own(runs, tmp_path):
    page = compare(runs, tmp_path / "page.html").read_text()
    assert "<th>base model of one, two</th><th>base model of seed</th><th>one</th>" in page
    assert page.count("data:image/png") == 3 * 5


def test_what_a_run_learned_from_is_told_as_it_is(runs):
    one = _who([Compared("one", *shown(runs[0]))])
    assert "<td>rdpo</td><td>colorfulness</td>" in one
    assert re.search(r"<td>\d+ pairs</td>", one)
    directory, experiment, *others = shown(runs[0])
    labelled = replace(experiment, method=KTO(), data=DataConfig(path="/home/me/liked"))
    other = _who([Compared("other", directory, labelled, *others)])
    assert "<td>kto</td><td>labelled pictures of liked</td>" in other
    assert re.search(r"<td>\d+ pictures</td>", other)


def shown(path):
    """What a page shows of a run, but its label."""
    directory = RunDirectory.open(path)
    return directory, directory.experiment(), directory.all_evaluations(), directory.rows(directory.metrics)


def test_runs_that_are_judged_on_different_prompts_are_not_called_comparable(runs):
    one = Compared("one", *shown(runs[0]))
    assert _judged([one, one]).startswith("Of 3 ")
    fewer = replace(one, label="few", experiment=replace(one.experiment, heldout_prompts=("a yak",)))
    told = _judged([one, fewer, one])
    assert "different prompts (one, one: 3 " in told
    assert "few: 1 held-out prompts" in told
    assert "not comparable" in told
    trained = replace(one, experiment=replace(one.experiment, prompts=("a yak",)))
    assert "not comparable" not in _judged([one, trained])


def test_what_is_not_known_is_left_empty(runs):
    base, *_, final = RunDirectory.open(runs[0]).all_evaluations()
    unknown = Estimate(math.nan, math.nan)
    final = replace(final, rewards={"colorfulness": unknown}, diversity=math.nan)
    told = _before_and_after([base, final])
    assert told["colorfulness"] == told["diversity"] == ""
    assert "→" in told["diversity of form"]
    rows = {name: cells for name, *cells in before_and_after([base, final])}
    assert rows["colorfulness"] == [str(base.rewards["colorfulness"]), "", ""]


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


def test_charts_and_lines_without_data_are_left_out():
    rows = [{"iteration": 1, "kl": math.nan, "loss": 0.5, "rho_win": math.nan, "rho_lose": math.nan, "by_step": {}}]
    (only,) = draw_ratios(SFT(), rows).axes
    assert [line.get_label() for line in only.lines] == ["loss"]
    assert only.get_subplotspec().colspan.start == 0  # where the chart of ratios would be
    empty = draw_by_step(SFT(), rows)
    assert not empty.axes
    assert figure_section("By step", empty, "note") == ""
    figure = draw_ratios(DiffusionDPO(), [row | {"kl": 0.1, "rho_win": 0.2} for row in rows])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "winner",
        "|policy - reference|² of outputs",
    ]


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
        "settings": {}, "contenders": [
            {"label": "base", "reward": "", "iteration": 0},
            {"label": "one", "reward": "r", "iteration": 1},
            {"label": "new", "reward": "r", "iteration": 0},
        ], "images_per_prompt": 2,
        "sampling": {"num_inference_steps": 6, "scheduler": "ddim", "guidance_scale": 5.0}, "seed": 0,
    }  # fmt: skip
    RunDirectory.open(runs[0]).save_answer(answer)
    page = compare(runs, tmp_path / "page.html").read_text()
    assert "Questions to one" in page
    assert "Questions to two" not in page
    assert "0.75 ± 0.1" in page
    assert "guidance 5. one after 1 iteration, new after 0 iterations." in page


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="two run directories or more"):
        compare(runs[:1], tmp_path / "page.html")
    with pytest.raises(ConfigError, match="no folder"):
        compare(runs, tmp_path / "nowhere" / "page.html")
    with pytest.raises(ConfigError, match="it is a folder; name a file"):
        compare(runs, tmp_path)
    with pytest.raises(ConfigError, match=r"no config\.toml"):
        compare([runs[0], tmp_path], tmp_path / "page.html")
