"""What a study leaves behind: a table, the best config, and one page, whether or not it came to its end."""

import re

import pytest
from rich.console import Console

from raypref.config import load_experiment
from raypref.tune.choose import Contender, contenders, figure
from raypref.tune.directory import StudyDirectory
from raypref.tune.report import rows, table, write_best, write_study_report
from raypref.tune.study import load_study
from tests.tune.conftest import trial


def lambdas(*values):
    return [{"method.psi_lambda": value} for value in values]


@pytest.fixture
def left(leave):
    one, two, three = lambdas(0.5, 100.0, 9000.0)
    leave("0", one, {0: 0.2, 2: 0.3, 4: 0.4})
    leave("1", two, {0: 0.2, 2: 0.35, 4: 0.6})
    run = leave("2", three, {0: 0.2, 2: 0.7}, finished=False)
    run.append(run.alarms, {"iteration": 3, "alarms": {"nonfinite": 1}, "action": "stop"})


def test_the_table_has_the_furthest_first_and_says_how_each_ended(study, directory, left):
    header, lines = rows(study, directory.trials(study))
    assert header[:3] == ["trial", "method.psi_lambda", "iterations"]
    assert [line[:4] for line in lines] == [
        ["1", "100", "4", "0.6000 ± 0.0100"],
        ["0", "0.5", "4", "0.4000 ± 0.0100"],
        ["2", "9000", "2", "0.7000 ± 0.0100"],
    ]
    assert [line[-2] for line in lines] == ["0.4", "0.4", "0.2"]
    assert lines[2][-1] == "stopped by the guard after iteration 3: nonfinite"
    console = Console(width=200, record=True)
    console.print(table(study, directory.trials(study)))
    assert "stopped by the guard" in console.export_text()


def test_the_best_config_is_the_experiment_at_the_best_point(study, directory, left):
    write_best(study, directory, contenders(study, directory.trials(study))[0])
    found = load_experiment(directory.best)
    wanted = study.experiment({"method.psi_lambda": 100.0}, "run.name=small-best")
    assert found.method == wanted.method
    assert found.prompts == wanted.prompts
    assert found.run.name == "small-best"
    assert found.run.output_dir == wanted.run.output_dir
    assert directory.best.read_text().startswith("# method.psi_lambda = 100: colorfulness 0.6000 after 4 iterations\n")


def test_the_best_of_several_methods_is_a_config_of_that_method(toml):
    toml.write_text(toml.read_text() + '[tune]\nscheduler = "none"\n"method.name" = {grid = ["rdpo", "tailorpo"]}\n')
    study = load_study(toml)
    directory = StudyDirectory.planned(study)
    directory.create(study)
    best = Contender({"method.name": "tailorpo"}, (trial("1", {"method.name": "tailorpo"}, {4: 0.6}),), 4)
    write_best(directory.study(), directory, best)
    assert load_experiment(directory.best).method == load_experiment(toml, ["method.name=tailorpo"]).method


def test_the_page_has_table_and_plots_and_needs_nothing_else(directory, left):
    page = write_study_report(directory).read_text()
    assert len(re.findall("<figure>", page)) == 3
    assert "stopped by the guard" in page
    assert "<b>Best:</b> method.psi_lambda = 100" in page
    assert not re.search(r"(src|href)=[\"']?http", page)


def test_a_study_of_words_and_seeds_can_be_drawn(study_toml, leave, directory):
    config = directory.config
    extra = '\n"method.psi_sign" = {choice = ["intended", "printed"]}\n"run.seed" = {grid = [0, 1]}\n'
    config.write_text(config.read_text().replace("[tune]", f"[tune]{extra}"))
    for name, sign in (("0", "intended"), ("1", "printed")):
        leave(name, {"method.psi_lambda": 1.0, "method.psi_sign": sign, "run.seed": 1}, {0: 0.2, 2: 0.3})
    assert len(re.findall("<figure>", write_study_report(directory).read_text())) == 4


def test_a_study_that_has_not_begun_has_a_page(directory):
    assert "0 trials" in write_study_report(directory).read_text()


def test_a_failure_is_told_by_its_reason(study, directory, leave):
    leave("0", *lambdas(1.0), {0: 0.2}, finished=False)
    directory.failures.write_text('{"0": "the reward server is gone"}')
    assert directory.trials(study)[0].fate == "the reward server is gone"


def test_one_that_failed_before_it_had_a_directory_is_in_the_table(study, directory, leave):
    leave("0", study.points()["0"], {0: 0.2, 2: 0.3, 4: 0.4})
    directory.failures.write_text('{"1": "no model is there"}')
    _, lines = rows(study, directory.trials(study))
    assert [line[0] for line in lines] == ["0", "1"]
    assert lines[1][1:3] == [figure(study.points()["1"]["method.psi_lambda"]), "0"]
    assert lines[1][-1] == "no model is there"
