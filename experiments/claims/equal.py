"""All methods on one reward at equal network evaluations: a section of docs/claims.md, and its chart."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

from experiments.claims.arms import BUDGET, DSPO, EQUAL, OFFLINE, ONLINE, PAIRS, SEEDS, SFT_AS_DSPO, Arm
from experiments.claims.statistics import Results, Run, difference, gains, over_seeds, reward_at, spent
from experiments.claims.tables import table

CHART = Path("docs/equal_evaluations.svg")
STEPS = 10
SET = PAIRS * 2 * STEPS
"""Evaluations that drew a set of pairs."""
ARMS: dict[str, Arm] = dict(zip((*ONLINE, *OFFLINE), EQUAL, strict=False))
PRICES = {"its pairs paid for": SET, "its pairs for free": 0}


def gain(price: int) -> Callable[[Run], float]:
    """What a run had gained when it had spent what the budget leaves beside the price."""
    return lambda run: reward_at(run, "guided_evaluations", BUDGET - price)


def price(method: str, set_costs: int) -> int:
    """Methods on rollouts need no set."""
    return set_costs if method in OFFLINE else 0


def at_end(run: Run, axis: str) -> float:
    """Of the evaluation that comes first after the budget is spent."""
    return next(
        value
        for evaluations, value in zip(spent(run, "guided_evaluations"), spent(run, axis), strict=True)
        if evaluations >= BUDGET
    )


def kept(run: Run) -> float:
    """Share of the base model's diversity."""
    return run["evaluations"][-1]["diversity"] / run["evaluations"][0]["diversity"]


def section(results: Results) -> str:
    """Table, chart, and DSPO against SFT."""
    order = sorted(ARMS, key=lambda name: -over_seeds(results, ARMS[name].name, gain(price(name, SET))).value)
    rows: list[list[object]] = []
    for method in order:
        arm = ARMS[method].name
        first, second = (over_seeds(results, arm, gain(price(method, costs))) for costs in PRICES.values())
        match = over_seeds(results, arm, lambda run: gains(run, "prompt_match")[-1])
        drift = over_seeds(results, arm, lambda run: at_end(run, "kl"))
        diversity = over_seeds(results, arm, kept)
        kind, iterations = "pairs" if method in OFFLINE else "rollouts", ARMS[method].iterations
        rows.append(
            [f"`{method}`", kind, iterations, first, second, match, f"{drift.value:.4f}", f"{diversity.value:.0%}"]
        )
    head = ["method", "learns from", "iterations", *(f"gain, {name}" for name in PRICES)]
    chart(results, order)
    seconds = sum(run["seconds"] for arm in EQUAL for run in results[arm.name].values())
    return (
        f"![gain of every method at equal evaluations]({CHART.name})\n\n"
        + table([*head, "prompt_match", "KL", "diversity kept"], rows)
        + f"\n{len(EQUAL)} arms, {len(SEEDS)} seeds, {seconds / 3600:.1f} hours of runs on one CPU core each.\n\n"
        + "DSPO against SFT under the identical schedule: rows, iterations, updates, learning rate.\n\n"
        + against_sft(results)
    )


def against_sft(results: Results) -> str:
    """DSPO less SFT at the iterations that both were judged at."""
    judged = [evaluation["iteration"] for evaluation in results[DSPO.name][0]["evaluations"]][1:]
    rows: list[list[object]] = []
    for iteration in judged:
        at = at_iteration(iteration)
        apart = difference(results, DSPO.name, SFT_AS_DSPO.name, at)
        mine, other = (over_seeds(results, arm.name, at) for arm in (DSPO, SFT_AS_DSPO))
        rows.append([iteration, mine, other, f"{apart}: {apart.verdict()}"])
    return table(["iterations", "`dspo`", "`sft`", "`dspo` above `sft`"], rows)


def at_iteration(iteration: int) -> Callable[[Run], float]:
    return lambda run: reward_at(run, "iteration", iteration)


def chart(results: Results, order: list[str]) -> None:
    """A line a method, the best on top: filled where its pairs are paid for, hollow where they are not."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(order) + 1))
    for row, method in enumerate(reversed(order)):
        colour = "tab:orange" if method in OFFLINE else "tab:blue"
        for costs in sorted({price(method, costs) for costs in PRICES.values()}):
            found = over_seeds(results, ARMS[method].name, gain(costs))
            paid = costs == price(method, SET)
            axes.errorbar(
                *(found.value, row, None, found.half),
                **{"fmt": "o", "color": colour, "mfc": colour if paid else "white", "capsize": 2},
            )
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(order)), reversed(order))
    axes.set_xlabel(f"gain in held-out colourfulness at {BUDGET} network evaluations (95 % over {len(SEEDS)} seeds)")
    axes.set_title("blue: rollouts; orange: pairs, filled where they are paid for, hollow where they are not", size=9)
    figure.savefig(CHART, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
