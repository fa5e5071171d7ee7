"""What came out of a study: a table, the best config, and one HTML page."""

import html
import math
from collections.abc import Sequence
from pathlib import Path

import tomli_w
from rich.table import Table

from raypref.report import figure_section, page
from raypref.run_directory import portable, replace_text
from raypref.tune.choose import SEED, Contender, contenders, figure
from raypref.tune.directory import StudyDirectory, Trial
from raypref.tune.figures import draw_axis, draw_curves, draw_tradeoffs
from raypref.tune.space import words
from raypref.tune.study import Study


def rows(study: Study, trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """Header and a row a trial, those that came furthest first, of these the better first."""
    judged = next((trial.evaluations[-1] for trial in trials if trial.evaluations), None)
    rewards = list(judged.rewards) if judged else [study.metric]
    header = [
        "trial",
        *(axis.address for axis in study.axes),
        "iterations",
        *rewards,
        "diversity",
        "KL",
        "how it ended",
    ]
    lines = []
    for trial in sorted(trials, key=lambda trial: _standing(study, trial), reverse=True):
        line = [trial.name, *(figure(trial.point[axis.address]) for axis in study.axes)]
        if trial.evaluations:
            last = trial.evaluations[-1]
            found = [str(last.rewards[name]) for name in rewards]
            line += [str(last.iteration), *found, f"{last.diversity:.4f}", f"{trial.kl_at(last.iteration):.4g}"]
        else:
            line += ["0", *[""] * (len(rewards) + 2)]
        lines.append([*line, trial.fate])
    return header, lines


def _standing(study: Study, trial: Trial) -> tuple[int, float]:
    if not trial.evaluations:
        return -1, 0.0
    last = trial.evaluations[-1]
    mean = last.rewards[study.metric].mean
    return last.iteration, -math.inf if math.isnan(mean) else mean


def table(study: Study, trials: Sequence[Trial]) -> Table:
    """For a terminal."""
    header, lines = rows(study, trials)
    shown = Table(*header)
    for line in lines:
        shown.add_row(*line)
    return shown


def write_best(study: Study, directory: StudyDirectory, best: Contender) -> None:
    """The best settings as a config that `raypref train` takes, beside the prompts it names."""
    found = study.experiment(best.point, *words({"run.name": f"{study.base.run.name}-best"}))
    comment = f"# {best.describe(study.metric)}\n\n"
    replace_text(directory.best, comment + tomli_w.dumps(portable(found)))


CURVE_NOTE = (
    "Held-out reward of every trial, with the standard error of its last figure. A curve that ends early was stopped; "
    "the colour is the first searched setting."
)
TRADEOFF_NOTE = (
    "What the reward was bought with: every evaluation of every trial, joined in order, the last one large. KL is that "
    "of the policy to the reference in the last iteration before, in nats an element (with a method on labelled "
    "pictures the squared distance of outputs instead, which is on another scale); diversity is that of held-out "
    "pictures."
)
AXIS_NOTE = (
    "Each trial's last evaluation; open circles are trials that did not come as far as the furthest, and are not "
    "comparable with the others."
)


def write_study_report(directory: StudyDirectory) -> Path:
    """Writes `report.html` from what the study directory holds, finished or not. Returns its path."""
    study = directory.study()
    trials = directory.trials(study)
    judged = [trial for trial in trials if trial.evaluations]
    name = html.escape(study.base.run.name)
    sections = [
        f"<h1>{name}</h1><p class='note'>{len(trials)} trials over "
        f"{html.escape(', '.join(axis.address for axis in study.axes))}, compared by the held-out "
        f"{html.escape(study.metric)}.</p>",
        _best(study, trials),
        _table(study, trials),
    ]
    if judged:
        sections.append(figure_section("Over iterations", draw_curves(study, judged), CURVE_NOTE))
        sections.append(figure_section("Against KL and diversity", draw_tradeoffs(study, judged), TRADEOFF_NOTE))
        for axis in (axis for axis in study.axes if axis.address != SEED):
            sections.append(figure_section(f"Over {axis.address}", draw_axis(study, axis, judged), AXIS_NOTE))
    sections.append(f"<h2>Config</h2><pre>{html.escape(directory.config.read_text())}</pre>")
    replace_text(directory.report, page(study.base.run.name, sections))
    return directory.report


def _best(study: Study, trials: Sequence[Trial]) -> str:
    ahead = contenders(study, trials)
    if not ahead:
        return ""
    return f"<p><b>Best:</b> {html.escape(ahead[0].describe(study.metric))}; its config is <code>best.toml</code>.</p>"


def _table(study: Study, trials: Sequence[Trial]) -> str:
    header, lines = rows(study, trials)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    return (
        "<h2>Trials</h2><p class='note'>Figures of each trial's last evaluation: mean and standard error over held-out "
        f"prompts.</p><table><tr>{head}</tr>{body}</table>"
    )
