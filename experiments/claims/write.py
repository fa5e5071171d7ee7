"""Writes docs/claims.md from what `measure` left: `python -m experiments.claims.write`."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from experiments.claims.arms import ARMS, EQUAL, LONG, RUNS, SEEDS
from experiments.claims.equal import section as all_methods
from experiments.claims.measure import BEST_OF_N_STEPS, best_of_n_path
from experiments.claims.statistics import (
    Mean,
    Results,
    Run,
    difference,
    gains,
    metric,
    over_seeds,
    read,
    reward_at,
    spent,
)
from experiments.claims.tables import table
from raypref.evaluate.table import Table

END = 10
"""The iteration at which arms are compared; long arms go on to LONG."""
DRIFT = 0.02
"""The KL to the base model at which methods are compared that come so far."""
ONLINE = ("ddpo", "d3po", "spo", "tailorpo", "tailorpo_g", "rdpo_star", "rdpo")
PAPER_TABLE_1 = {
    "ddpo": 6.57,
    "d3po": 6.46,
    "spo": 5.89,
    "tailorpo": 6.66,
    "tailorpo_g": 6.96,
    "rdpo_star": 7.28,
    "rdpo": 7.80,
}
LAMBDAS = {
    0: "rdpo_star",
    0.01: "rdpo, lambda = 0.01",
    0.1: "rdpo, lambda = 0.1",
    1: "rdpo, lambda = 1",
    10: "rdpo, lambda = 10",
    100: "rdpo",
    10_000: "rdpo, lambda = 10000",
}


def gain_at(axis: str, budget: float) -> Callable[[Run], float]:
    return lambda run: reward_at(run, axis, budget)


gain = gain_at("iteration", END)


def at_end(name: str, iteration: int = END) -> Callable[[Run], float]:
    return lambda run: metric(run, name, iteration)


def watched(run: Run) -> float:
    """Change of prompt_match, which nothing trains on."""
    at = spent(run, "iteration").index(END)
    return gains(run, "prompt_match")[at]


def drift(run: Run) -> float:
    """KL to the base model at the states of `measure.Probe`."""
    return spent(run, "kl")[spent(run, "iteration").index(END)]


def budgets(results: Results, arms: tuple[str, ...], axis: str) -> float:
    """The largest budget that every run of the arms has spent at END."""
    return min(
        level
        for arm in arms
        for run in results[arm].values()
        for at, level in zip(spent(run, "iteration"), spent(run, axis), strict=True)
        if at == END
    )


def table_1(results: Results) -> str:
    axes = {name: budgets(results, ONLINE, name) for name in ("samples", "guided_evaluations")}
    rows: list[list[object]] = []
    order = sorted(ONLINE, key=lambda arm: -over_seeds(results, arm, gain).value)
    for arm in order:
        equal = [over_seeds(results, arm, gain_at(axis, budget)) for axis, budget in axes.items()]
        rows.append(
            [
                f"`{arm}`",
                over_seeds(results, arm, gain),
                *equal,
                at_drift(results, arm, DRIFT),
                over_seeds(results, arm, watched),
                f"{over_seeds(results, arm, drift).value:.4f}",
                PAPER_TABLE_1[arm],
            ]
        )
    return (
        f"Equal samples: {axes['samples']:.0f} rows; equal evaluations: {axes['guided_evaluations']:.0f} guided "
        "forwards.\n\n"
        + table(
            [
                "method",
                f"gain after {END} iterations",
                "at equal samples",
                "at equal evaluations",
                f"at KL {DRIFT:g}",
                "prompt_match",
                "KL",
                "paper (aesthetic)",
            ],
            rows,
        )
        + "\nThe paper's order, neighbour by neighbour:\n\n"
        + neighbours(results, axes)
        + "\nThe gain by drift, where every run of a method was judged before and after it (long runs included):\n\n"
        + by_drift(results)
    )


def neighbours(results: Results, axes: dict[str, float]) -> str:
    """The paper's order as claims of one method above the next; `axes`: the budgets to compare at."""
    rows: list[list[object]] = []
    for better, worse in pairwise(sorted(ONLINE, key=lambda arm: -PAPER_TABLE_1[arm])):
        line: list[object] = [f"`{better}` above `{worse}`"]
        for axis, budget in [("iteration", float(END)), *axes.items()]:
            diff = difference(results, better, worse, gain_at(axis, budget))
            line.append(f"{diff}: {diff.verdict()}")
        if at_drift(results, better, DRIFT) and at_drift(results, worse, DRIFT):
            diff = difference(results, better, worse, gain_at("kl", DRIFT))
            line.append(f"{diff}: {diff.verdict()}")
        else:
            line.append("not reached")
        rows.append(line)
    head = ["claim", "equal iterations", "equal samples", "equal evaluations", f"KL {DRIFT:g}"]
    return table(head, rows)


def by_drift(results: Results) -> str:
    """The frontier between reward and KL."""
    levels = (0.005, 0.01, DRIFT)
    rows: list[list[object]] = []
    for arm in ONLINE:
        gained = [at_drift(results, arm, level) for level in levels]
        if any(gained):
            rows.append([f"`{arm}`", *gained])
    return table(["method", *(f"KL {level:g}" for level in levels)], rows)


def at_drift(results: Results, arm: str, level: float) -> Mean | str:
    """The gain at a KL, where every run of the arm was judged before and after it; else nothing."""
    kls = [spent(run, "kl") for run in results[arm].values()]
    inside = all(kl[1] <= level <= kl[-1] for kl in kls)
    return over_seeds(results, arm, gain_at("kl", level)) if inside else ""


def table_3(results: Results) -> str:
    rows: list[list[object]] = []
    for method in ("d3po", "spo", "tailorpo"):
        for sign in ("intended", "printed"):
            arm = f"{method} + psi {sign}"
            diff = difference(results, arm, method, gain)
            lower = difference(results, method, arm, at_end("rho_lose"))
            rows.append(
                [
                    f"`{method}`",
                    sign,
                    over_seeds(results, method, gain),
                    over_seeds(results, arm, gain),
                    f"{diff}: {diff.verdict()}",
                    f"{scaled(lower)}: {lower.verdict()}",
                ]
            )
    return table(
        ["method", "sign of Psi", "gain without", "gain with Psi", "Psi raises the reward", "Psi lowers rho_l (1e-3)"],
        rows,
    )


def scaled(value: Mean) -> Mean:
    return Mean(1000 * value.value, 1000 * value.half)


def table_4() -> str:
    rows: list[list[object]] = []
    for steps in BEST_OF_N_STEPS:
        answer = Table.read(json.loads(best_of_n_path(steps).read_text()))
        where = "five steps" if steps else "all steps"
        for row in answer.rows:
            _, rule, number, _, evaluations, calls, same = row.labels
            reward = row.cells[answer.columns.index("colorfulness")]
            rows.append(
                [
                    f"`{rule}`",
                    number,
                    "" if rule == "none" else where,
                    f"{reward.mean:.4f} ± {reward.standard_error:.4f}",
                    evaluations,
                    calls,
                    same,
                ]
            )
    return table(
        ["rule", "N", "chosen at", "reward (± s.e. over prompts)", "evaluations", "reward calls", "same pictures as"],
        rows,
    )


def losers(results: Results) -> str:
    rows: list[list[object]] = []
    for arm in (
        "d3po",
        "d3po + psi intended",
        "spo",
        "spo + psi intended",
        "tailorpo",
        "tailorpo + psi intended",
        "rdpo_star",
        "rdpo",
    ):
        names = ("rho_win", "rho_lose", "kl", "rho_lose_excess")
        rows.append([f"`{arm}`", *(scaled(over_seeds(results, arm, at_end(name))) for name in names)])
    return table(["arm", "rho_w", "rho_l", "KL", "rho_l beyond its KL"], rows)


def lambdas(results: Results) -> str:
    rows: list[list[object]] = [
        [
            f"{value:g}",
            over_seeds(results, arm, gain),
            over_seeds(results, arm, watched),
            scaled(over_seeds(results, arm, at_end("rho_lose"))),
            scaled(over_seeds(results, arm, drift)),
            f"{over_seeds(results, arm, at_end('grad_norm')).value:.3g}",
        ]
        for value, arm in LAMBDAS.items()
    ]
    return table(["lambda", "gain", "prompt_match", "rho_l (1e-3)", "KL (1e-3)", "gradient norm before clipping"], rows)


def stability(results: Results) -> str:
    rows: list[list[object]] = []
    for arm in ("rdpo", "d3po", "spo"):
        row: list[object] = [f"`{arm}`"]
        for iteration in (END, 2 * END, LONG):
            row.append(over_seeds(results, arm, gain_at("iteration", iteration)))
        final = [run["evaluations"][-1] for run in results[arm].values()]
        base = [run["evaluations"][0] for run in results[arm].values()]
        kept = sum(a["diversity"] / b["diversity"] for a, b in zip(final, base, strict=True)) / len(final)
        right = {name: sum(e["accuracy"][name] for e in final) / len(final) for name in ("colour", "place", "animal")}
        match = over_seeds(results, arm, lambda run: gains(run, "prompt_match")[-1])
        seeds = ", ".join(f"{gains(run)[-1]:+.2f}" for run in results[arm].values())
        rows.append([*row, seeds, match, *(f"{value:.2f}" for value in right.values()), f"{kept:.0%}"])
    return table(
        [
            "method",
            f"gain at {END}",
            f"at {2 * END}",
            f"at {LONG}",
            "seed by seed",
            "prompt_match",
            "colour right",
            "place right",
            "animal right",
            "diversity kept",
        ],
        rows,
    )


def two(results: Results, first: str, second: str, claim: str) -> str:
    diff = difference(results, first, second, gain)
    return table(
        ["", f"`{first}`", f"`{second}`", claim],
        [
            [
                "gain",
                over_seeds(results, first, gain).to(4),
                over_seeds(results, second, gain).to(4),
                f"{diff.to(4)}: {diff.verdict()}",
            ]
        ],
    )


def of_the_papers(results: Results) -> dict[str, str]:
    """Title -> tables."""
    return {
        "Table 1: the order of the methods": table_1(results) + cost(results),
        "Table 3: Psi on top of other methods": table_3(results),
        "Table 4: step-wise best-of-N": table_4(),
        "Fig. 1 and 3b: the loser's log-ratio": losers(results),
        "Fig. 3a: lambda": lambdas(results),
        "Fig. 3c: three times the samples": stability(results),
        "DDPM instead of DDIM": two(results, "rdpo, DDPM", "rdpo", "DDPM above DDIM"),
        "The gain across different parents": two(results, "d3po_delta", "d3po", "gain labels above final labels"),
    }


def of_all_methods(results: Results) -> dict[str, str]:
    """Title -> table and chart."""
    return {"All methods at equal network evaluations": all_methods(results)}


def cost(results: Results) -> str:
    seconds = sum(run["seconds"] for arm in ARMS for run in results[arm.name].values())
    return (
        f"\nBehind this section and the next ones: {len(ARMS)} arms, {len(SEEDS)} seeds, {seconds / 3600:.1f} hours of "
        "runs on one CPU core each.\n"
    )


def page(results: Results, before: str) -> str:
    """The page; of sections whose runs are not all there, what it said `before`."""
    notes = json.loads((Path(__file__).parent / "reading.json").read_text())
    bodies = dict(_section(text) for text in before.split("\n## ")[1:])
    for arms, sections in ((ARMS, of_the_papers), (EQUAL, of_all_methods)):
        if all(len(results.get(arm.name, {})) == len(SEEDS) for arm in arms):
            bodies |= {title: f"{notes[title]}\n\n{content}" for title, content in sections(results).items()}
    bodies["In short"] = notes["in short"]
    head = f"{notes['head']}\n\nMade by `make claims` from `experiments/claims/`; do not edit.\n"
    return head + "".join(f"\n## {title}\n\n{body.strip()}\n" for title, body in bodies.items())


def _section(text: str) -> tuple[str, str]:
    title, _, body = text.partition("\n")
    return title, body


if __name__ == "__main__":
    target = Path("docs/claims.md")
    target.write_text(page(read(RUNS), target.read_text()))
    print(target)
