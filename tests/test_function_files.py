"""A reward's own function is found from wherever the command runs, and again by whoever goes on with the run."""

import json
from pathlib import Path

import pytest

from raypref.checks import ConfigError, check_rules
from raypref.config import load_experiment
from raypref.run import resume, train
from raypref.run_directory import RunDirectory
from raypref.submit import training_job

OF_A_MIXTURE = 'reward.parts=[{name="colorfulness"}, {name="function", settings={path="mine/reward.py:score"}}]'


@pytest.fixture
def elsewhere(toml, tmp_path_factory, monkeypatch):
    """A working folder that is not the config's."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    return Path.cwd()


def reward_in(folder: Path) -> Path:
    file = folder / "mine/reward.py"
    file.parent.mkdir()
    file.write_text("def score(images, prompts):\n    return images.mean((1, 2, 3))\n")
    return file


OWN = ("reward.name=function", "reward.path=mine/reward.py:score")


def test_it_is_looked_for_beside_the_config_then_in_the_working_folder(toml, elsewhere):
    here = reward_in(elsewhere)
    assert load_experiment(toml, OWN).reward.settings == {"path": f"{here}:score"}
    beside = reward_in(toml.parent)
    assert load_experiment(toml, OWN).reward.settings == {"path": f"{beside}:score"}
    mixture = load_experiment(toml, ["reward.name=mixture", OF_A_MIXTURE]).reward.settings
    assert mixture["parts"][1]["settings"] == {"path": f"{beside}:score"}


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (OWN, "reward.path"),
        (["reward.name=mixture", OF_A_MIXTURE], "reward.parts[1].settings.path"),
        (["evaluate.rewards=['function']", "evaluate.reward_settings.function.path=mine/reward.py:score"],
         "evaluate.reward_settings.function.path"),
    ],
)  # fmt: skip
def test_the_error_says_where_it_was_looked_for(toml, elsewhere, overrides, field):
    with pytest.raises(ConfigError) as caught:
        load_experiment(toml, overrides)
    looked = f"looked for {toml.parent}/mine/reward.py and mine/reward.py. Name"
    assert str(caught.value).startswith(f"{field} = 'mine/reward.py:score': no such file; {looked}")


def test_a_run_goes_on_from_another_folder(toml, elsewhere, tmp_path_factory, monkeypatch, undrawn):
    reward_in(toml.parent)
    run = train(load_experiment(toml, [*OWN, "run.iterations=1"]))
    monkeypatch.chdir(tmp_path_factory.mktemp("third"))
    resume(run, ["run.iterations=2"])
    assert len(RunDirectory(run).rows(RunDirectory(run).metrics)) == 2


def test_a_file_that_travels_with_a_job_is_named_as_the_job_finds_it(toml, elsewhere, tmp_path, monkeypatch):
    reward_in(elsewhere)
    experiment = load_experiment(toml, [*OWN, "run.output_dir=/mnt/raypref/runs"], check_rules)
    folder = tmp_path / "travels"
    folder.mkdir()
    training_job(experiment, folder, [Path("mine/reward.py")])
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://x.zip"}}))
    there = load_experiment(Path("config.toml"), (), check_rules)
    assert there.reward.settings == {"path": "mine/reward.py:score"}


def test_a_function_that_the_file_lacks_is_told_before_anything_starts(toml, elsewhere):
    file = reward_in(toml.parent)
    said = rf"^reward\.path = '{file}:scores': {file} has no function 'scores': did you mean 'score'\?$"
    with pytest.raises(ConfigError, match=said):
        load_experiment(toml, ["reward.name=function", "reward.path=mine/reward.py:scores"])
