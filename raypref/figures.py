"""The curves of a report, one function a figure."""

import math
from collections.abc import Sequence
from typing import Any

from raypref.evaluate.heldout import Estimate, Evaluation
from raypref.methods.base import Method
from raypref.methods.regression import RegressionMethod
from raypref.train.experiment import Experiment

Figure = Any
"""One of matplotlib's."""
Axes = Any
"""One of matplotlib's."""
Rows = list[dict[str, Any]]

DRAWN = {"rho_win": "winner", "rho_lose": "loser"}


def drift_names(method: Method) -> tuple[str, str]:
    """What rows call rho and kl, in words. Of methods on labelled pictures they are of outputs: a factor of the time
    away from nats (`raypref.core.regression`), so the two kinds are never drawn on one axis."""
    if isinstance(method, RegressionMethod):
        return "squared error, reference - policy", "|policy - reference|² of outputs"
    return "log policy / reference", "KL to the reference"


def relative_change(before: float, after: float) -> float:
    """Growth as a share of the size of `before`: positive is better, for rewards below zero too."""
    return (after - before) / abs(before) if before else 0.0


def before_and_after(evaluations: list[Evaluation]) -> list[tuple[str, str, str, str]]:
    """A row a held-out figure: its name, before, after, and the change; empty where it is not known."""
    return [(name, _told(a), _told(b), change(a, b)) for name, (a, b) in changes(evaluations).items()]


def changes(evaluations: list[Evaluation]) -> dict[str, tuple[Estimate, Estimate]]:
    """Every held-out figure before and after, by its name; NaN where it is not known."""
    base, final = _held_out(evaluations[0]), _held_out(evaluations[-1])
    return {name: (value, final.get(name, Estimate(math.nan, math.nan))) for name, value in base.items()}


def _told(value: Estimate) -> str:
    return "" if math.isnan(value.mean) else str(value)


def _held_out(evaluation: Evaluation) -> dict[str, Estimate]:
    plain = {f"{name} right": share for name, share in evaluation.accuracy.items()}
    plain |= {"diversity": evaluation.diversity, "diversity of form": evaluation.form_diversity}
    return evaluation.rewards | {name: Estimate(value, math.nan) for name, value in plain.items()}


def change(before: Estimate, after: Estimate) -> str:
    """The relative change in words; empty where it is not known."""
    found = relative_change(before.mean, after.mean)
    return "" if math.isnan(found) else f"{found:+.1%}"


def new_figure(height: float) -> Figure:
    """An empty one. With the first comes matplotlib: a second that a run need not wait for before it begins."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    return Figure(figsize=(10, height), layout="constrained")


def draw_rewards(experiment: Experiment, rows: Rows, evaluations: list[Evaluation]) -> Figure:
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    name = experiment.reward.name
    if "reward" in rows[0]:
        left.plot(*_series(rows, "reward"), color="#aaa", label="candidates in training")
    at = [e.iteration for e in evaluations]
    draw_estimates(left, at, [e.rewards[name] for e in evaluations], marker="o", label=experiment.judged_on())
    left.set(xlabel="iteration", ylabel=name)
    others = [other for other in evaluations[0].rewards if other != name]
    trained = () if experiment.data.path else experiment.reward.also
    watched = {
        f"{other} (trained on)" if other in trained else other: [e.rewards[other].mean for e in evaluations]
        for other in others
    }
    watched |= {
        f"{kind} right": [e.accuracy.get(kind, math.nan) for e in evaluations] for kind in evaluations[0].accuracy
    }
    watched["diversity"] = [e.diversity for e in evaluations]
    watched["diversity of form"] = [e.form_diversity for e in evaluations]
    for label, values in watched.items():
        draw_line(right, at, [1 + relative_change(values[0], value) for value in values], marker=".", label=label)
    right.axhline(1, color="#aaa", lw=0.8)
    right.set(xlabel="iteration", ylabel="relative to base")
    only_drawn(left, right)
    return figure


def draw_ratios(method: Method, rows: Rows) -> Figure:
    figure = new_figure(3.2)
    left, right = figure.subplots(1, 2)
    ratio, distance = drift_names(method)
    for key, label in (DRAWN | {"kl": distance}).items():
        draw_line(left, *_series(rows, key), label=label, ls="--" if key == "kl" else "-")
    left.set(xlabel="iteration", ylabel=ratio)
    for key in ("loss", "accuracy"):
        if key in rows[0]:
            draw_line(right, *_series(rows, key), label=key)
    right.set(xlabel="iteration")
    only_drawn(left, right)
    return figure


def draw_by_step(method: Method, rows: Rows) -> Figure:
    figure = new_figure(3.2)
    left, right = figure.subplots(1, 2)
    late = rows[-math.ceil(len(rows) / 4) :]
    ratio, distance = drift_names(method)
    for key, label in (DRAWN | {"kl": distance}).items():
        draw_line(left, *_mean_by_step(late, key), label=label, marker=".", ls="--" if key == "kl" else "-")
    left.set(xlabel="step", ylabel=ratio)
    for key, label in (("accuracy", "implicit accuracy"), ("zero_gradient", "clamped")):
        draw_line(right, *_mean_by_step(late, key), label=label, marker=".")
    right.set(xlabel="step", ylim=(-0.05, 1.05))
    only_drawn(left, right)
    return figure


SILENCE = {"dropped_share": "dropped", "zero_gradient": "clamped"}


def draw_silence(rows: Rows) -> Figure:
    figure = new_figure(2.6)
    axes = figure.subplots()
    for key, label in SILENCE.items():
        if key in rows[0]:
            draw_line(axes, *_series(rows, key), label=label)
    axes.set(xlabel="iteration", ylabel="share of rows", ylim=(-0.05, 1.05))
    only_drawn(axes)
    return figure


def draw_predictions(evaluations: list[Evaluation]) -> Figure:
    figure = new_figure(3.2)
    left, right = figure.subplots(1, 2)
    for evaluation, label in ((evaluations[0], "base"), (evaluations[-1], "final")):
        for axes, values in ((left, evaluation.score_by_step), (right, evaluation.tau_by_step)):
            draw_line(axes, [int(step) for step in values], list(values.values()), marker=".", label=label)
        if tiny := evaluation.tiny_tau_by_step:
            steps, taus = [int(step) for step in tiny], list(tiny.values())
            draw_line(right, steps, taus, marker=".", ls="--", label=f"{label}: tiny decoder with the full one")
    left.set(xlabel="step", ylabel="reward of the predicted picture")
    right.axhline(0, color="#aaa", lw=0.8)
    right.set(xlabel="step", ylabel="Kendall's tau")
    only_drawn(left, right)
    return figure


def draw_gain(rows: Rows) -> Figure:
    figure = new_figure(3.2)
    axes = figure.subplots()
    for step in rows[0]["by_step"].get("gain", {}):
        at = [row["iteration"] for row in rows]
        draw_line(axes, at, [row["by_step"]["gain"][step] for row in rows], label=f"step {step}")
    axes.axhline(0, color="#aaa", lw=0.8)
    axes.set(xlabel="iteration", ylabel="mean ΔQ")
    only_drawn(axes)
    return figure


def draw_time(rows: Rows) -> Figure:
    figure = new_figure(3.2)
    axes = figure.subplots()
    at = [row["iteration"] for row in rows]
    wall = [
        now["seconds"] - before for now, before in zip(rows, [0.0, *(row["seconds"] for row in rows[:-1])], strict=True)
    ]
    bottom = [0.0] * len(rows)
    for role, label in (("denoising", "samplers: denoising"), ("scoring", "samplers: waiting for scores"),
                        ("syncing", "samplers: proving weights"), ("learning", "learner")):  # fmt: skip
        values = [row["busy_seconds"][role] for row in rows]
        if any(values):
            axes.bar(at, values, bottom=bottom, label=label, width=0.8)
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    axes.plot(at, wall, color="black", marker=".", label="wall clock")
    axes.set(xlabel="iteration", ylabel="seconds")
    only_drawn(axes)
    return figure


def _series(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    return [row["iteration"] for row in rows], [row[key] for row in rows]


def _mean_by_step(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    """The mean over rows at each step; nothing where the method has no such metric."""
    steps = sorted({int(step) for row in rows for step in row["by_step"].get(key, {})})
    found = [[row["by_step"][key][str(step)] for row in rows if str(step) in row["by_step"][key]] for step in steps]
    return steps, [sum(values) / len(values) for values in found]


def draw_line(axes: Axes, at: Sequence[int], values: Sequence[float], **look: Any) -> None:
    """A line, unless nothing of it is known: neither has a legend an entry then."""
    if any(map(math.isfinite, values)):
        axes.plot(at, values, **look)


def draw_estimates(axes: Axes, at: Sequence[int], values: Sequence[Estimate], **look: Any) -> None:
    """The same with standard errors."""
    if any(math.isfinite(value.mean) for value in values):
        errors = [value.standard_error for value in values]
        axes.errorbar(at, [value.mean for value in values], errors, capsize=3, **look)


def only_drawn(*axes: Axes) -> None:
    """Takes away axes without data; the others close ranks, and get legends."""
    places = [each.get_subplotspec() for each in axes]
    drawn = [each for each in axes if each.get_legend_handles_labels()[0]]
    for each in set(axes) - set(drawn):
        each.remove()
    for each, place in zip(drawn, places, strict=False):
        each.set_subplotspec(place)
        each.xaxis.get_major_locator().set_params(integer=True)  # iterations, or steps
        each.ticklabel_format(axis="y", useOffset=False)
    legends(*drawn)


def legends(*axes: Axes, **entries: Any) -> None:
    """Legends, and axes without a box."""
    for each in axes:
        each.legend(frameon=False, fontsize=8, **entries)
        each.spines[["top", "right"]].set_visible(False)
