"""Ours against published loops and against the bare minimum, in turn in one process: `python -m benchmarks.compute`."""

import argparse
from collections.abc import Callable

from benchmarks import floor
from benchmarks.baselines import d3po_style, naive_rdpo, spo_style
from benchmarks.clock import tell
from benchmarks.work import Ours, Outcome, Published, fused, plan
from raypref.methods.base import StepMethod
from raypref.methods.d3po import D3PO
from raypref.methods.rdpo import RDPO
from raypref.methods.spo import SPO
from raypref.train.experiment import Experiment

PROMPTS = 10
PARTS = ("all", "rollout", "reward", "learner")


def compare(name: str, experiment: Experiment, theirs: Callable[[Published], Outcome], rounds: int) -> None:
    """Pairs per CPU second of ours over theirs, with the defaults and, where it is not refused, fused sampling."""
    assert isinstance(experiment.method, StepMethod), "the published loops are of rollouts"
    models, search = Published(experiment), experiment.method.search
    players = {name: Ours(experiment)}
    steps = search.steps
    if search.shape == "chain" or not any(step + 1 in steps for step in steps):
        players[f"{name}_fused"] = Ours(fused(experiment))
    for ours in players.values():
        ours.run()  # the first time pays for what happens once
    theirs(models)
    found: dict[str, list[tuple[Outcome, Outcome]]] = {player: [] for player in players}
    for _ in range(rounds):
        other = theirs(models)
        for player, ours in players.items():
            found[player].append((agreeing(player, ours.run(), other), other))
    for player, pairs in found.items():
        summarise(player, pairs)


def agreeing(name: str, mine: Outcome, other: Outcome) -> Outcome:
    """Ours, which must have found the same pairs and losses."""
    if not mine.agrees(other):
        raise SystemExit(f"{name}: {mine.pairs} pairs of loss {mine.loss}, theirs {other.pairs} of {other.loss}")
    return mine


def summarise(name: str, found: list[tuple[Outcome, Outcome]]) -> None:
    """End to end, and by part of the work."""
    facts = {
        f"{part}_{kind}": round(
            sum(getattr(other.clock, kind)[part] for _, other in found)
            / sum(getattr(mine.clock, kind)[part] for mine, _ in found),
            3,
        )
        for part in PARTS
        for kind in ("cpu", "wall")
    }
    seconds = sum(mine.clock.cpu["all"] for mine, _ in found)
    tell(
        name,
        [other.clock.cpu["all"] / mine.clock.cpu["all"] for mine, other in found],
        **facts,
        pairs_per_cpu_second=sum(mine.pairs for mine, _ in found) / seconds,
    )


def against_floor(experiment: Experiment, rounds: int) -> None:
    """Wall time of an iteration over that of its bare minimum."""
    ours = Ours(experiment)
    ours.run(), floor.run(ours)
    found = [(ours.run().clock, floor.run(ours)) for _ in range(rounds)]
    tell(
        "vs_floor",
        [mine.wall["all"] / bare.wall["all"] for mine, bare in found],
        cpu=sum(mine.cpu["all"] for mine, _ in found) / sum(bare.cpu["all"] for _, bare in found),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("only", nargs="*")
    args = parser.parse_args()
    rdpo, d3po, spo = RDPO(), D3PO(), SPO(threshold=0.0)
    size = 25
    tasks: dict[str, Callable[[], None]] = {
        "vs_floor": lambda: against_floor(plan(rdpo, PROMPTS, size), args.rounds),
        "vs_naive_rdpo": lambda: compare(
            "vs_naive_rdpo",
            plan(rdpo, PROMPTS, size),
            lambda models: naive_rdpo.run(models, rdpo, size),
            args.rounds,
        ),
        "vs_spo_style": lambda: compare(
            "vs_spo_style",
            plan(spo, PROMPTS, 32, "reward.name=step_aware_match"),
            lambda models: spo_style.run(models, spo),
            args.rounds,
        ),
        "vs_d3po_style": lambda: compare(
            "vs_d3po_style", plan(d3po, PROMPTS, 25), lambda models: d3po_style.run(models, d3po), args.rounds
        ),
    }
    for name, task in tasks.items():
        if not args.only or name in args.only:
            task()


if __name__ == "__main__":
    main()
