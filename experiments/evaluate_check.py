"""Every question to a short run of the tiny model: `python -m experiments.evaluate_check`.

Prints a JSON line for each check, {"name": ..., "ok": true, and what was found}; exit code 1 where one does not hold.
Runs are in runs/evaluate-check; what is trained is not trained again, and what was interrupted goes on.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from raypref.ask import ask
from raypref.config import load_experiment
from raypref.evaluate.table import Measured, Table
from raypref.run import resume, train
from raypref.run_directory import RunDirectory
from raypref.train.checkpoint import discard_after

CONFIG = Path("experiments/evaluate_check.toml")
REWARD = "colorfulness"
OTHER = ("run.name=other", "reward.name=jpeg_compressibility", "run.iterations=4")
QUESTIONS = ("win_rate", "diversity", "best_of_n", "ood", "editing", "fidelity")
SETTINGS = (
    "best_of_n.candidates=[4]",
    'best_of_n.rules=["q", "delta_parent"]',
    "best_of_n.steps=[2, 4, 6]",
    "ood.sample=8",
)

Facts = dict[str, Any]


def asked(path: Path, names: Sequence[str], against: Sequence[Path] = (), overrides: Sequence[str] = ()) -> list[Table]:
    """Answers; what is said on the way goes to stderr."""
    with redirect_stdout(sys.stderr):
        return ask(path, names, against, overrides)


def trained(*overrides: str) -> Path:
    """The directory of a finished run."""
    experiment = load_experiment(CONFIG, overrides)
    path = RunDirectory.planned(experiment).path
    if (path / "summary.json").exists():
        return path
    with redirect_stdout(sys.stderr):
        return resume(path) if path.exists() else train(experiment)


def untrained(path: Path) -> Path:
    """A copy of a run that has come no further than the base model."""
    copy = path.with_name("untrained")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    directory = RunDirectory.open(copy)
    discard_after(directory.checkpoints(directory.experiment()), 0)
    return copy


def said(figure: Measured) -> Facts:
    return {"mean": figure.mean, "low": figure.low, "high": figure.high, "n": figure.n}


def win_rate(table: Table) -> Facts:
    """The aligned run against the base model: above a half, without doubt."""
    found = table.cell("base", REWARD, column="win rate")
    return {"ok": found.low > 0.5} | said(found)


def diversity(table: Table) -> Facts:
    """Something is left of the base model's, and nothing is missing."""
    found = table.cell("diversity", "aligned", column="share kept")
    base = table.cell("diversity", "base", column="share kept")
    return {"ok": found.low > 0 and (base.mean, base.low, base.high) == (1.0, 1.0, 1.0)} | said(found)


def best_of_n(table: Table) -> Facts:
    """Choosing gains, and siblings are ranked alike by Q and by its gain."""
    rules = {row.labels[1]: row for row in table.rows if row.labels[0] == "base"}
    gain = rules["q"].cells[table.columns.index("gain")]
    return {"ok": gain.low > 0 and rules["delta_parent"].labels[-1] == "q, N = 4"} | said(gain)


def ood(table: Table) -> Facts:
    """Both sets are there, and the gain holds on the other one."""
    sets = list(dict.fromkeys(row.labels[0] for row in table.rows))
    found = table.cell(sets[1], "base", REWARD, column="win rate")
    return {"ok": sets[0] == "held out" and len(sets) == 2 and found.low > 0.5} | said(found)


def editing(table: Table) -> Facts:
    """Edits by the aligned run beat the base model's."""
    found = table.cell("base", REWARD, column="win rate")
    return {"ok": found.low > 0.5} | said(found)


def fidelity(table: Table) -> Facts:
    """It has moved, at every step and in its pictures."""
    steps = [row.cells[0] for row in table.rows if row.labels[0].startswith("KL at step")]
    distance = table.cell("MMD²", "aligned", "base", column="value")
    drift = table.cell("KL, mean over steps", "aligned", "base", column="value")
    return {"ok": min(cell.mean for cell in steps) > 0, "mmd2": said(distance)} | said(drift)


def itself(table: Table) -> Facts:
    """A run against itself: a half, within its interval."""
    found = table.cell("aligned (2)", REWARD, column="win rate")
    return {"ok": found.mean == 0.5 and found.low <= 0.5 <= found.high} | said(found)


def generalisation(table: Table) -> Facts:
    """Each reward is raised by the run that was trained on it."""
    gains = {row.labels[1]: row for row in table.rows if row.labels[2] == "gain"}
    found = {name: row.cells[table.columns.index(name)] for name, row in gains.items()}
    return {"ok": found[REWARD].low > 0 and len(gains) == 2} | {name: said(cell) for name, cell in found.items()}


def nothing_trained(tables: list[Table]) -> Facts:
    """A run without training: the base model's bits, hence ties, and no drift."""
    found = tables[0].cell("base", REWARD, column="win rate")
    tied = tables[0].cell("base", REWARD, column="tied")
    drift = tables[1].cell("KL, mean over steps", "aligned", "base", column="value")
    return {"ok": (found.mean, found.low, found.high, tied.mean, drift.mean) == (0.5, 0.5, 0.5, 1.0, 0.0)} | said(found)


def told(name: str, check: Callable[[], Facts]) -> bool:
    """Prints the line of a check; whether it holds."""
    try:
        facts = check()
    except (ValueError, RuntimeError, KeyError, StopIteration) as problem:
        facts = {"ok": False, "problem": f"{type(problem).__name__}: {problem}"}
    print(json.dumps({"name": name} | facts), flush=True)
    return bool(facts["ok"])


def main() -> None:
    aligned, other = trained(), trained(*OTHER)
    tables = dict(zip(QUESTIONS, asked(aligned, QUESTIONS, overrides=SETTINGS), strict=True))
    checks = (win_rate, diversity, best_of_n, ood, editing, fidelity)
    results = [told(check.__name__, partial(check, tables[check.__name__])) for check in checks]
    against = asked(aligned, ("win_rate", "generalisation"), [aligned, other])
    results.append(told("win_rate of a run against itself", partial(itself, against[0])))
    results.append(told("generalisation", partial(generalisation, against[1])))
    nothing = asked(untrained(aligned), ("win_rate", "fidelity"))
    results.append(told("win_rate without training", partial(nothing_trained, nothing)))
    on_ray = asked(aligned, ("win_rate",), overrides=("cluster.runtime=ray", "cluster.samplers=2"))
    results.append(told("win_rate on Ray", lambda: {"ok": on_ray[0] == tables["win_rate"]}))
    print(json.dumps({"name": "cost", "ok": all(results), "cpu_seconds_of_this_process": round(time.process_time())}))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
