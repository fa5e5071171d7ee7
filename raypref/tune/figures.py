"""The curves of a study's report, one function a figure."""

import math
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from raypref.figures import legends
from raypref.tune.choose import SEED, figure
from raypref.tune.directory import Trial
from raypref.tune.space import Axis
from raypref.tune.study import Study


def draw_curves(study: Study, trials: Sequence[Trial]) -> Figure:
    drawing = Figure(figsize=(10, 3.6), layout="constrained")
    axes = drawing.subplots()
    for trial, colour in _coloured(study, trials):
        estimates = [evaluation.rewards[study.metric] for evaluation in trial.evaluations]
        at = [evaluation.iteration for evaluation in trial.evaluations]
        axes.plot(at, [each.mean for each in estimates], color=colour, marker=".", label=_label(study, trial))
        axes.errorbar(at[-1], estimates[-1].mean, estimates[-1].standard_error, color=colour, capsize=3)
    axes.set(xlabel="iteration", ylabel=f"held-out {study.metric}")
    _legend(axes, study)
    return drawing


def draw_tradeoffs(study: Study, trials: Sequence[Trial]) -> Figure:
    drawing = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    for trial, colour in _coloured(study, trials):
        rewards = [evaluation.rewards[study.metric].mean for evaluation in trial.evaluations]
        kl = [trial.kl_at(evaluation.iteration) for evaluation in trial.evaluations]
        diversity = [evaluation.diversity for evaluation in trial.evaluations]
        for axes, values in ((left, kl), (right, diversity)):
            axes.plot(values, rewards, color=colour, lw=0.8, marker=".", ms=3)
            axes.plot(values[-1:], rewards[-1:], color=colour, marker="o", ls="", label=_label(study, trial))
    left.set(xlabel="KL to the reference", ylabel=f"held-out {study.metric}")
    left.set_xscale("symlog", linthresh=_smallest(trials))
    right.set(xlabel="diversity")
    right.locator_params(axis="x", nbins=4)
    _legend(right, study)
    left.spines[["top", "right"]].set_visible(False)
    return drawing


def _smallest(trials: Sequence[Trial]) -> float:
    """The least KL that is not 0."""
    return min((kl for trial in trials for kl in trial.kl.values() if kl > 0), default=1e-6)


def draw_axis(study: Study, axis: Axis, trials: Sequence[Trial]) -> Figure:
    drawing = Figure(figsize=(10, 3.2), layout="constrained")
    last = [trial.evaluations[-1] for trial in trials]
    furthest = max(evaluation.iteration for evaluation in last)
    given = [trial.point[axis.address] for trial in trials]
    names = _names(axis, trials)
    places = given if _numeric(axis) else [names.index(figure(value)) for value in given]
    panels = {
        f"held-out {study.metric}": [evaluation.rewards[study.metric].mean for evaluation in last],
        "KL to the reference": [trial.kl_at(trial.evaluations[-1].iteration) for trial in trials],
        "diversity": [evaluation.diversity for evaluation in last],
    }
    for axes, (label, heights) in zip(drawing.subplots(1, 3), panels.items(), strict=True):
        for place, height, evaluation in zip(places, heights, last, strict=True):
            style = "full" if evaluation.iteration == furthest else "none"
            axes.plot(place, height, "o", color="C0", fillstyle=style)
        if not _numeric(axis):
            axes.set_xticks(range(len(names)), names)
        elif _is_wide(min(given), max(given)):
            axes.set_xscale("log")
        axes.set(xlabel=axis.address, ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    return drawing


def _names(axis: Axis, trials: Sequence[Trial]) -> list[str]:
    return sorted({figure(trial.point[axis.address]) for trial in trials})


def _numeric(axis: Axis) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in axis.values)


def _is_wide(low: float, high: float) -> bool:
    """Whether a range is better seen in its logarithm."""
    return low > 0 and high / low >= 20


def _coloured(study: Study, trials: Sequence[Trial]) -> list[tuple[Trial, tuple[float, float, float, float]]]:
    """Each with its colour, by the first searched setting other than the seed, and in that order."""
    axis = next((axis for axis in study.axes if axis.address != SEED), study.axes[0])
    scale = colormaps["viridis"]
    if not _numeric(axis):
        names = _names(axis, trials)
        ranks = [names.index(figure(trial.point[axis.address])) for trial in trials]
        ranked = sorted(zip(ranks, range(len(trials)), trials, strict=True))
        return [(trial, scale(rank / max(1, len(names) - 1))) for rank, _, trial in ranked]
    ordered = sorted(trials, key=lambda trial: trial.point[axis.address])
    values = [float(trial.point[axis.address]) for trial in ordered]
    norm = LogNorm(values[0], values[-1]) if _is_wide(values[0], values[-1]) else Normalize(values[0], values[-1])
    shades = [0.95 * float(norm(value)) if math.isfinite(norm(value)) else 0.0 for value in values]
    return [(trial, scale(shade)) for trial, shade in zip(ordered, shades, strict=True)]


def _label(study: Study, trial: Trial) -> str:
    """What a trial has been given, without the seed; so that seeds share a line of the legend."""
    return ", ".join(figure(trial.point[axis.address]) for axis in study.axes if axis.address != SEED) or trial.name


def _legend(axes: Axes, study: Study) -> None:
    """One entry a label, under the names of what was searched, beside the axes: it would hide curves."""
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    names = ", ".join(axis.address for axis in study.axes if axis.address != SEED)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    legends(axes, handles=list(found.values()), labels=list(found), title=names, title_fontsize=8, **beside)
