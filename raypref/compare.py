"""Runs side by side on one self-contained HTML page: what differs, curves, tables, pictures."""

import html
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypref.answers import answers_section
from raypref.checks import ConfigError
from raypref.config import resolved
from raypref.evaluate.heldout import Evaluation
from raypref.figures import (
    Figure,
    Rows,
    change,
    changes,
    draw_estimates,
    draw_line,
    drift_names,
    new_figure,
    only_drawn,
)
from raypref.provenance import trained_on
from raypref.report import figure_section, page, strips
from raypref.run_directory import GRID_ROWS, RunDirectory, flattened, replace_text
from raypref.train.experiment import Experiment

CURVES_NOTE = "From each run's own seeds; mean and standard error. Iteration 0 is the base model."
TRAINING_NOTE = "Of the candidates that training saw, and of its updates; what a method does not measure has no line."
TRAINED = {"accuracy": "implicit accuracy", "loss": "loss"}
"""Figures of an iteration, beside the reward of its candidates and the distance to the reference."""


@dataclass(frozen=True)
class Compared:
    """What a page shows of a run."""

    label: str
    """Its name, or, where two runs share one, its path."""
    directory: RunDirectory
    experiment: Experiment
    evaluations: list[Evaluation]
    rows: Rows


def compare(paths: Sequence[Path], output: Path) -> Path:
    """Writes the page. Returns its path.

    Raises:
        ConfigError: where there are fewer than two runs, or one of them is none, or has not begun, or no file can be
            written to `output`.
    """
    if len(paths) < 2:
        raise ConfigError("compare: name two run directories or more, such as runs/a runs/b")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}; make it, or name another")
    if output.is_dir():
        raise ConfigError(f"--output {output}: it is a folder; name a file, such as {output / 'compare.html'}")
    runs = _read(paths)
    sections = [
        f"<h1>{html.escape(' · '.join(run.label for run in runs))}</h1>",
        _who(runs),
        _settings(runs),
        _figures(runs),
        figure_section("Held-out curves", _draw_heldout(runs), f"{CURVES_NOTE} {_judged(runs)}"),
        figure_section("Training", _draw_training(runs), TRAINING_NOTE),
        _answers(runs),
        _pictures(runs),
    ]
    replace_text(output, page("Comparison", sections))
    return output


def _read(paths: Sequence[Path]) -> list[Compared]:
    found = []
    for path in paths:
        directory = RunDirectory.open(path)
        evaluations = directory.all_evaluations()
        if not evaluations:
            raise ConfigError(f"run directory {path}: nothing has been evaluated yet; wait, or continue it")
        found.append((directory, directory.experiment(), evaluations, directory.rows(directory.metrics)))
    names = [experiment.run.name for _, experiment, _, _ in found]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    return [Compared(label, *parts) for label, parts in zip(labels, found, strict=True)]


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f"<div class='wide wrap'><table><tr>{head}</tr>{body}</table></div>"


def _who(runs: Sequence[Compared]) -> str:
    def cost(run: Compared) -> tuple[str, str]:
        timings = run.directory.rows(run.directory.timings)
        seen, seconds = (run.rows[-1]["pairs"], timings[-1]["seconds"]) if run.rows and timings else (0, 0.0)
        return f"{seen} {run.experiment.method.row_name()}", f"{seconds:.0f}"

    lines = [
        (run.label, run.experiment.method.name, trained_on(run.experiment), str(run.experiment.run.seed),
         str(run.evaluations[-1].iteration), *cost(run))
        for run in runs
    ]  # fmt: skip
    return _table(("run", "method", "trained on", "seed", "iterations", "learned from", "seconds of training"), lines)


def _settings(runs: Sequence[Compared]) -> str:
    """The settings that are not the same in all runs."""
    tables = [flattened(resolved(run.experiment)) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    lines = [
        (name, *("" if table.get(name) is None else str(table[name]) for table in tables))
        for name in names
        if name not in ("run.name", "run.output_dir")
        and any(table.get(name) != tables[0].get(name) for table in tables)
    ]
    body = _table(("setting", *(run.label for run in runs)), lines) if lines else "<p>All settings are the same.</p>"
    return f"<h2>What differs</h2>{body}"


def _figures(runs: Sequence[Compared]) -> str:
    """Held-out figures of the base model and after the last iteration, by run."""
    columns = [_before_and_after(run.evaluations) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [(name, *(column.get(name, "") for column in columns)) for name in names]
    note = f"<p class='note'>Mean ± standard error over prompts. {html.escape(_judged(runs))}</p>"
    return f"<h2>Before and after</h2>{_table(('', *(run.label for run in runs)), lines)}{note}"


def _before_and_after(evaluations: list[Evaluation]) -> dict[str, str]:
    return {
        name: f"{before.mean:.4f} → {after} ({grown})" if (grown := change(before, after)) else ""
        for name, (before, after) in changes(evaluations).items()
    }


def _judged(runs: Sequence[Compared]) -> str:
    """On which prompts, and whether on the same."""
    groups = defaultdict[tuple[tuple[str, ...], str], list[str]](list)
    for run in runs:
        groups[run.experiment.heldout_prompts, run.experiment.judged_on()].append(run.label)
    if len(groups) == 1:
        ((prompts, kind),) = groups
        return f"Of {len(prompts)} {kind}."
    told = "; ".join(f"{', '.join(labels)}: {len(prompts)} {kind}" for (prompts, kind), labels in groups.items())
    if len({prompts for prompts, _ in groups}) == 1:
        return f"Of the same prompts: {told}."
    return f"Judged on different prompts ({told}): figures of different prompts are not comparable with each other."


def _draw_heldout(runs: Sequence[Compared]) -> Figure:
    names = dict.fromkeys(name for run in runs for name in run.evaluations[0].rewards)
    figure, panels = _panels(len(names) + 1)
    for number, run in enumerate(runs):
        look: dict[str, Any] = {"marker": ".", "label": run.label, "color": f"C{number}"}
        for name, axes in zip(names, panels, strict=False):
            found = [(e.iteration, e.rewards[name]) for e in run.evaluations if name in e.rewards]
            draw_estimates(axes, [iteration for iteration, _ in found], [value for _, value in found], **look)
            axes.set(xlabel="iteration", ylabel=name)
        draw_line(panels[-1], [e.iteration for e in run.evaluations], [e.diversity for e in run.evaluations], **look)
    panels[-1].set(xlabel="iteration", ylabel="diversity")
    only_drawn(*panels)
    return figure


def _draw_training(runs: Sequence[Compared]) -> Figure:
    """A panel a reward, of the runs that were trained on it, and one a kind of distance; then a panel a figure that all
    methods may have."""
    rewards, distances = defaultdict[str, list[Compared]](list), defaultdict[str, list[Compared]](list)
    for run in runs:
        rewards[f"{run.experiment.reward.name} of candidates"].append(run)
        distances[drift_names(run.experiment.method)[1]].append(run)
    figures = [("reward", label, some) for label, some in rewards.items()]
    figures += [("kl", label, some) for label, some in distances.items()]
    figures += [(key, label, list(runs)) for key, label in TRAINED.items()]
    shown = [(key, label, [run for run in some if run.rows and key in run.rows[-1]]) for key, label, some in figures]
    shown = [panel for panel in shown if panel[2]]
    figure, panels = _panels(max(1, len(shown)))
    for (key, label, some), axes in zip(shown, panels, strict=False):
        for run in some:
            rows = [row for row in run.rows if key in row]
            at, values = [row["iteration"] for row in rows], [row[key] for row in rows]
            draw_line(axes, at, values, label=run.label, color=f"C{runs.index(run)}")  # one colour a run in all panels
        axes.set(xlabel="iteration", ylabel=label)
    only_drawn(*panels)
    return figure


def _panels(count: int) -> tuple[Figure, list[Any]]:
    """Two a line; none empty."""
    lines = math.ceil(count / 2)
    figure = new_figure(3.2 * lines)
    grid = list(figure.subplots(lines, 2, squeeze=False).flatten())
    for unused in grid[count:]:
        unused.remove()
    return figure, grid[:count]


def _answers(runs: Sequence[Compared]) -> str:
    return "".join(
        answers_section(run.directory.rows(run.directory.answers), f"Questions to {run.label}") for run in runs
    )


def _pictures(runs: Sequence[Compared]) -> str:
    """What training started from, once where all drew the same, and every run at its end: a row a prompt that all were
    judged on."""
    prompts = [run.experiment.heldout_prompts[:GRID_ROWS] for run in runs]
    common = [prompt for prompt in prompts[0] if all(prompt in others for others in prompts)]
    if not common:
        return "<h2>Pictures</h2><p class='note'>The runs were judged on different prompts.</p>"
    bases = defaultdict[tuple[str, ...], list[str]](list)
    for run in runs:
        bases[_column(run, 0, common)].append(run.label)
    names = ["base model"] if len(bases) == 1 else [f"base model of {', '.join(labels)}" for labels in bases.values()]
    columns = [*bases, *(_column(run, -1, common) for run in runs)]
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *names, *(run.label for run in runs)))
    body = "".join(
        f"<tr><td>{html.escape(prompt)}</td>"
        + "".join(f"<td><img alt='' src='{strip}'></td>" for strip in line)
        + "</tr>"
        for prompt, *line in zip(common, *columns, strict=True)
    )
    return f"<h2>Pictures</h2><div class='wide'><table class='pictures'><tr>{heads}</tr>{body}</table></div>"


def _column(run: Compared, place: int, prompts: Sequence[str]) -> tuple[str, ...]:
    """A run's pictures of these prompts, at its first or last evaluation, as data URLs."""
    theirs = run.experiment.heldout_prompts[:GRID_ROWS]
    found = dict(zip(theirs, strips(run.directory.grid(run.evaluations[place].iteration), len(theirs)), strict=True))
    return tuple(found[prompt] for prompt in prompts)
