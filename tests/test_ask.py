"""Questions to runs, through the command line: what is asked, kept, shown and refused."""

import dataclasses
import json
import re
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raypref import evaluate
from raypref.ask import _judged_by_all, ask
from raypref.checks import ConfigError
from raypref.cli import app
from raypref.config import load_experiment
from raypref.evaluate.question import Question
from raypref.registry import named_classes
from raypref.report import write_report
from raypref.run import train
from raypref.run_directory import RunDirectory
from raypref.studio import RuntimeStudio
from raypref.train.experiment import RewardConfig
from tests.conftest import small_toml
from tests.toy_runtime import ToyRuntime, toy_experiment


@pytest.fixture(scope="module")
def runs(tmp_path_factory, random_model):
    """Two finished runs of the toy model, and the config that they were made from."""
    folder = tmp_path_factory.mktemp("asked")
    config = small_toml(folder, random_model)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("raypref.run.start_runtime", ToyRuntime)
        patched.setattr("raypref.run.write_report", lambda directory: directory.report)
        made = [
            train(load_experiment(config, [f"run.name={name}", f"run.seed={seed}"]))
            for seed, name in enumerate(("first", "second"))
        ]
    return config, *made


@pytest.fixture(autouse=True)
def toy_studio(monkeypatch):
    monkeypatch.setattr("raypref.ask.RuntimeStudio", partial(RuntimeStudio, start=ToyRuntime))
    monkeypatch.setattr("raypref.ask.write_report", lambda directory: directory.report)


def test_several_questions_at_once_are_told_kept_and_reported(runs, monkeypatch):
    _, first, second = runs
    monkeypatch.setattr("raypref.ask.write_report", write_report)
    told = []
    tables = ask(first, ["win_rate", "diversity"], [second], ["evaluate.images_per_prompt=3"], told.append)
    assert [table.question for table in tables] == ["win_rate", "diversity"]
    assert [table.question for table in told] == ["diversity", "win_rate"]  # who looks at pictures comes first
    assert {row.labels[0] for row in tables[0].rows} == {"second"}
    kept = RunDirectory.open(first).rows(first / "answers.jsonl")
    assert [row["question"] for row in kept[-2:]] == ["diversity", "win_rate"]
    assert kept[-1]["images_per_prompt"] == 3
    assert [one["label"] for one in kept[-1]["contenders"]] == ["base", "first", "second"]
    page = (first / "report.html").read_text()
    assert "<h3>win_rate</h3>" in page
    ask(first, ["win_rate"], [second], ["evaluate.images_per_prompt=3"])
    assert (first / "report.html").read_text().count("<h3>win_rate</h3>") == page.count("<h3>win_rate</h3>")


def test_a_run_against_itself_is_a_half(runs):
    _, first, _ = runs
    (table,) = ask(first, ["win_rate"], [first])
    found = table.cell("first (2)", "colorfulness", column="win rate")
    assert found.mean == 0.5
    assert found.low < 0.5 < found.high
    assert table.cell("first (2)", "colorfulness", column="tied").mean == 1.0


def test_a_config_is_asked_what_needs_no_training(runs):
    config, *_ = runs
    (table,) = ask(config, ["best_of_n"], overrides=["best_of_n.candidates=[2]", 'best_of_n.rules=["q"]'])
    assert [row.labels[1] for row in table.rows] == ["none", "q"]


@pytest.mark.parametrize(
    ("names", "against", "overrides", "problem"),
    [
        (["win_rat"], False, [], "no such question: did you mean 'win_rate'"),
        (["win_rate"], False, ["diversity.x=1"], "diversity is not asked"),
        (["ood"], False, ["ood.sample=-1"], r"ood.sets: .*sample = -1"),
        (["ood"], False, ["ood.set=1"], "no key 'set': did you mean 'sets'"),
        (["win_rate"], False, ["method.beta=1"], "method.beta"),
        (["win_rate"], True, [], "it holds no config.toml"),
        (["editing"], False, ["editing.strength=2.0"], r"editing.strength = 2.0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_drawn(runs, monkeypatch, names, against, overrides, problem):
    def never(*args, **settings):
        raise AssertionError("it was drawn")

    monkeypatch.setattr("raypref.ask.RuntimeStudio", never)
    with pytest.raises(ConfigError, match=problem):
        ask(runs[1], names, [runs[1].parent] if against else [], overrides)


def test_a_config_has_no_trained_policy(runs):
    with pytest.raises(ConfigError, match="name a run directory"):
        ask(runs[0], ["win_rate"])


def test_one_name_for_two_rewards_is_refused(runs, tmp_path):
    _, first, _ = runs
    text = (first / "config.toml").read_text().replace('name = "colorfulness"', 'name = "hpsv2"\nversion = "2.0"')
    copies = []
    for version in ("2.0", "2.1"):
        copy = tmp_path / version
        copy.mkdir()
        for file in first.rglob("*"):
            if file.is_file():
                (copy / file.relative_to(first)).parent.mkdir(parents=True, exist_ok=True)
                (copy / file.relative_to(first)).write_bytes(file.read_bytes())
        (copy / "config.toml").write_text(text.replace("2.0", version))
        copies.append(copy)
    with pytest.raises(ConfigError, match="mean one reward by a name"):
        ask(first, ["generalisation"], copies)


def test_a_reward_means_the_same_for_whoever_trained_on_it_beside_another():
    settings = {"version": "2.0"}
    ours = toy_experiment(reward=RewardConfig(also=("hpsv2",), also_settings={"hpsv2": settings}))
    theirs = toy_experiment(reward=RewardConfig("hpsv2", settings=settings))
    assert _judged_by_all(ours, [theirs]).watched == ()
    with pytest.raises(ConfigError, match="mean one reward by a name"):
        _judged_by_all(ours, [toy_experiment(reward=RewardConfig("hpsv2", settings={"version": "2.1"}))])


def test_what_was_drawn_lies_with_the_run_and_serves_the_next_call(runs, monkeypatch):
    _, first, _ = runs
    plain = ask(first, ["win_rate"])
    drawn = {file: file.stat().st_mtime_ns for file in (first / "questions").rglob("*.safetensors")}
    assert drawn

    def never(plan):
        raise AssertionError("it was drawn again")

    monkeypatch.setattr("raypref.ask.RuntimeStudio", partial(RuntimeStudio, start=never))
    assert ask(first, ["win_rate"]) == plain


def test_the_command_line_lists_asks_and_explains(runs):
    _, first, second = runs
    shown = CliRunner().invoke(app, ["questions", "--json"])
    listed = json.loads(shown.stdout)
    assert set(listed) == set(named_classes(evaluate, Question))
    assert listed["editing"]["settings"]["strength"] == 0.75
    assert "win_rate" in CliRunner().invoke(app, ["questions"]).stdout
    found = CliRunner().invoke(app, ["evaluate", str(first), "--question", "win_rate", "--against", str(second)])
    assert found.exit_code == 0, found.output
    assert re.search(r"second.*colorfulness", found.stdout)
    with pytest.raises(ConfigError, match="--question"):
        CliRunner().invoke(app, ["evaluate", str(first), "--against", str(second)], catch_exceptions=False)


def test_docs_name_every_question_and_setting():
    page = Path("docs/evaluation.md").read_text()
    for name, kind in named_classes(evaluate, Question).items():
        assert re.search(rf"^\| `{name}` \|", page, re.MULTILINE), name
        for setting in (field.name for field in dataclasses.fields(kind)):
            assert f"`{name}.{setting}`" in page, setting
