"""One self-contained HTML page about a run: what changed, what it cost, where the time went."""

import base64
import html
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from raypref.answers import answers_section
from raypref.core.counted import counted
from raypref.evaluate.heldout import Evaluation
from raypref.figures import (
    Figure,
    Rows,
    before_and_after,
    draw_by_step,
    draw_gain,
    draw_predictions,
    draw_ratios,
    draw_rewards,
    draw_silence,
    draw_time,
)
from raypref.idle import idle_shares
from raypref.methods.base import Method
from raypref.methods.regression import RegressionMethod
from raypref.provenance import trained_on
from raypref.run_directory import GRID_ROWS, RunDirectory, replace_text
from raypref.train.experiment import Experiment
from raypref.workers_table import workers_table

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; background: #fff; border-radius: 6px; padding: .5rem; }
figure svg { max-width: 100%; height: auto; }
.pictures td { padding: .15rem .4rem; border: 0; }
.pictures th { text-align: center; }
.pictures img { width: 100%; min-width: 16rem; image-rendering: pixelated; vertical-align: middle; }
.wide { overflow-x: auto; font-size: .9rem; background: /* a shade on the right, until what it hides is scrolled to */
  linear-gradient(Canvas, Canvas) right / 1rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / 1rem 100% no-repeat; }
.wide th, .wide td { padding: .25rem .5rem; }
.wide td { white-space: nowrap; }
.wrap td + td { white-space: normal; min-width: 6rem; overflow-wrap: anywhere; }
.wide td.label { text-align: left; }
.note { color: #777; font-size: .9rem; }
pre { background: var(--soft); padding: 1rem; overflow: auto; font-size: .85rem; }
"""


def write_report(directory: RunDirectory) -> Path:
    """Writes `report.html` from what the run directory holds, finished or not. Returns its path."""
    experiment, evaluations = directory.experiment(), directory.all_evaluations()
    rows, timings, method = directory.rows(directory.metrics), directory.rows(directory.timings), experiment.method
    sections = [
        _title(experiment, rows, timings),
        _alarms(directory),
        _table(experiment, evaluations),
        _pictures(directory, evaluations),
    ]
    if evaluations and evaluations[-1].score_by_step:
        note = PREDICTION_NOTE.format(experiment.judged_on()) + _approximation(experiment, evaluations[-1])
        sections.append(figure_section("Predictions on the way", draw_predictions(evaluations), note))
    if rows:
        sections += [
            figure_section("Reward", draw_rewards(experiment, rows, evaluations), _reward_note(experiment)),
            figure_section(*_ratios(method, rows)),
            figure_section("By step", draw_by_step(method, rows), _step_note(rows)),
            figure_section("Gain by step", draw_gain(rows), GAIN_NOTE),
            figure_section("What did not teach", draw_silence(rows), SILENCE_NOTE),
            figure_section("Where the time went", draw_time(timings), TIME_NOTE + _idle(experiment, timings)),
        ]
    sections.append(answers_section(directory.rows(directory.answers)))
    sections.append(workers_table(directory.rows(directory.workers)))
    sections.append(f"<h2>Config</h2><pre>{html.escape(directory.config.read_text())}</pre>")
    replace_text(directory.report, page(experiment.run.name, sections))
    return directory.report


def page(title: str, sections: Sequence[str]) -> str:
    """A self-contained HTML page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><body>{''.join(sections)}</body></html>\n"
    )


REWARD_NOTE = (
    "Left: the training reward, of the candidates that training saw and of {} (mean and standard error). "
    "Right: all else that was judged, relative to the base model. A reward that rises while what was not trained "
    "on falls is a collapse."
)
JUDGED_NOTE = (
    "Left: the reward that judges, of {} (mean and standard error). Training did not see it, but {}. Right: all else "
    "that was judged, relative to the base model."
)
LOSS_NOTE = "The method does not ask the reference: winners and losers are not compared with it."
RATIO_NOTE = (
    "Mean log-ratio of policy to reference per latent element. Before ranking, samples of the policy have E[rho] = KL, "
    "so winners and losers rise together as it drifts; ranking puts winners above that line and losers below. With "
    "run.lag = 1 samples come from the version before, and both lie lower."
)
OUTPUT_NOTE = (
    "Of the noisy pictures that were trained on: by how much less the policy's output errs than the reference's, and "
    "the squared distance of the two, both means over the latent's elements. They are what log-ratio and KL of a "
    "reverse step are but for a factor of the time, so not comparable with those of methods on rollouts."
)
STEP_NOTE = (
    "Means over the last quarter of the iterations, at each trained step, or tenth of the time; 0 is the noisiest."
)
ACCURACY_NOTE = (
    " An implicit accuracy of 0.5 is chance: the share of pairs whose winner the policy has come to prefer more than "
    "the reference does."
)
SILENCE_NOTE = (
    "Shares of rows that gave no gradient: dropped (ties, scores below the threshold, missing scores) and clamped "
    "(both arms of a pair, or the clipped ratio of a step)."
)
PREDICTION_NOTE = (
    "Of pictures of {}. Left: the training reward of the clean picture predicted after each trained step. Right: "
    "Kendall's tau between that score and the finished picture's, among pictures of one prompt; 1: the step score "
    "ranks as the final reward does, 0: it says nothing about it."
)
APPROXIMATION_NOTE = (
    "Dashed: Kendall's tau between their rewards and those by the full decoder, among candidates of one parent; 1: "
    "both choose the same winners, 0: the tiny decoder chooses by chance. In the end"
)
GAIN_NOTE = "Mean ΔQ = Q(child) − Q(parent) of all candidates at each branch step; 0 is the noisiest step."
TIME_NOTE = "Busy seconds of each role an iteration, and wall-clock time, to which an evaluation before it counts."


def _title(experiment: Experiment, rows: Rows, timings: Rows) -> str:
    seen = f"{rows[-1]['pairs']} {experiment.method.row_name()}" if rows else ""
    cost = f"{seen} in {timings[-1]['seconds']:.0f} s of training" if rows else "not trained yet"
    judge = experiment.reward.name
    taught = f"{trained_on(experiment)}, judged by {judge}" if experiment.data.path else f"reward {judge}"
    return (
        f"<h1>{html.escape(experiment.run.name)}</h1><p class='note'>{html.escape(experiment.method.name)} on "
        f"{html.escape(experiment.model.path)}, {html.escape(taught)}, "
        f"seed {experiment.run.seed}: {cost}.</p>"
    )


def _reward_note(experiment: Experiment) -> str:
    if experiment.data.path:
        return JUDGED_NOTE.format(experiment.judged_on(), trained_on(experiment))
    return REWARD_NOTE.format(experiment.judged_on())


def _ratios(method: Method, rows: Rows) -> tuple[str, Figure, str]:
    """Title, drawing and note; without a reference there is only the loss."""
    figure, note = draw_ratios(method, rows), OUTPUT_NOTE if isinstance(method, RegressionMethod) else RATIO_NOTE
    asked = any(math.isfinite(row["kl"]) for row in rows)
    return ("Winners and losers", figure, note) if asked else ("Loss", figure, LOSS_NOTE)


def _step_note(rows: Rows) -> str:
    return STEP_NOTE + (ACCURACY_NOTE if "accuracy" in rows[-1]["by_step"] else "")


def _idle(experiment: Experiment, timings: Rows) -> str:
    shares = [f"{role} {100 * max(share, 0.0):.0f} %" for role, share in idle_shares(experiment, timings).items()]
    return f" Idle, in iterations without an evaluation before them: {', '.join(shares)}." if shares else ""


def _alarms(directory: RunDirectory) -> str:
    """What tripped a guard, how often, when first and last, and what was done."""
    seen: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for row in directory.rows(directory.alarms):
        for guard, count in row["alarms"].items():
            seen[guard, row["action"]].append((row["iteration"], count))
    if not seen:
        return "<p class='note'>No guard was tripped.</p>"
    body = "".join(
        f"<tr><td>{guard}</td><td>{sum(count for _, count in times)}</td><td>{times[0][0]}</td><td>{times[-1][0]}</td>"
        f"<td>{action}</td></tr>"
        for (guard, action), times in seen.items()
    )
    return (
        "<h2>Guards that were tripped</h2><table><tr><th>guard</th><th>times</th><th>first after iteration</th>"
        f"<th>last</th><th>action</th></tr>{body}</table>"
    )


def _table(experiment: Experiment, evaluations: list[Evaluation]) -> str:
    if not evaluations:
        return ""
    final = evaluations[-1]
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{before}</td><td>{after}</td><td>{change}</td></tr>"
        for name, before, after, change in before_and_after(evaluations)
    )
    return (
        f"<h2>{experiment.judged_on().capitalize()}</h2>"
        f"<p class='note'>{final.prompts} prompts x {final.images_per_prompt} pictures, "
        f"the same seeds before and after {counted(final.iteration, 'iteration')}.</p>"
        f"<table><tr><th></th><th>base</th><th>final</th><th>change</th></tr>{body}</table>"
    )


def _pictures(directory: RunDirectory, evaluations: list[Evaluation]) -> str:
    """A row a prompt: its pictures before and after, from the same seeds."""
    if not evaluations:
        return ""
    prompts = directory.experiment().heldout_prompts[:GRID_ROWS]
    columns = [
        strips(directory.grid(evaluation.iteration), len(prompts)) for evaluation in (evaluations[0], evaluations[-1])
    ]
    rows = "".join(
        f"<tr><td>{html.escape(prompt)}</td>"
        + "".join(f"<td><img alt='' src='{strip}'></td>" for strip in pair)
        + "</tr>"
        for prompt, *pair in zip(prompts, *columns, strict=True)
    )
    return (
        "<h2>Before and after</h2><table class='pictures'><tr><th></th><th>base model</th><th>after training</th></tr>"
        f"{rows}</table>"
    )


def strips(grid: Path, rows: int) -> list[str]:
    """The rows of a picture grid, each as a data URL."""
    sheet = Image.open(grid)
    height = sheet.height // rows
    strips = []
    for row in range(rows):
        buffer = io.BytesIO()
        sheet.crop((0, row * height, sheet.width, (row + 1) * height)).save(buffer, format="PNG")
        strips.append(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return strips


def _approximation(experiment: Experiment, evaluation: Evaluation) -> str:
    """How far the ranks of candidates by a tiny decoder can be trusted."""
    if not experiment.model.tiny_vae:
        return ""
    told = f" Predictions are decoded by {experiment.model.tiny_vae}, approximately"
    taus = [
        f"{tau:.3f} at step {step} ({evaluation.tiny_pairs_by_step[step]} pairs)"
        for step, tau in evaluation.tiny_tau_by_step.items()
    ]
    return f"{told}. {APPROXIMATION_NOTE} {', '.join(taus)}." if taus else f"{told}; the method does not rank them."


def figure_section(title: str, figure: Figure, note: str) -> str:
    """A drawing under a heading, and what it shows; empty where nothing is drawn."""
    if not figure.axes:
        return ""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    drawing = buffer.getvalue()
    return f"<h2>{title}</h2><figure>{drawing[drawing.index('<svg') :]}</figure><p class='note'>{html.escape(note)}</p>"
