"""Every question to the quickstart's run: `python -m experiments.evaluate_check`.

Prints a JSON line for each check, {"name": ..., "ok": true, and what was found}; exit code 1 where one does not hold.
The run of `make quickstart` is asked where it is there, with the settings of experiments/quickstart.toml; else it is
trained in runs/evaluate-check, as is the short run that it is compared with. What is trained, or drawn, is not trained
or drawn again, and what was interrupted goes on.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from raypref.ask import ask
from raypref.config import load_experiment
from raypref.evaluate.fidelity import MMD, P_VALUE
from raypref.evaluate.table import Measured, Table
from raypref.run import resume, train
from raypref.run_directory import RunDirectory
from raypref.train.checkpoint import discard_after
from raypref.train.experiment import Experiment

QUICKSTART = Path("experiments/quickstart.toml")
OTHER = Path("experiments/evaluate_check.toml")
FOLDER = Path("runs/evaluate-check")
REWARD, OTHER_REWARD = "colorfulness", "jpeg_compressibility"
PICTURES = ("evaluate.images_per_prompt=2",)
QUESTIONS = ("win_rate", "diversity", "best_of_n", "ood", "editing", "fidelity")
SETTINGS = (
    "best_of_n.candidates=[4]",
    'best_of_n.rules=["q", "delta_parent"]',
    "best_of_n.steps=[8, 12, 16]",
    "ood.sample=8",
)

Facts = dict[str, Any]


def asked(path: Path, names: Sequence[str], against: Sequence[Path] = (), overrides: Sequence[str] = ()) -> list[Table]:
    """Answers; what is said on the way goes to stderr."""
    with redirect_stdout(sys.stderr):
        return ask(path, names, against, (*PICTURES, *overrides))


def quickstart() -> Path:
    """The directory of the quickstart's finished run."""
    experiment = load_experiment(QUICKSTART)
    path = RunDirectory.planned(experiment).path
    return path if finished(path) and same_settings(path, experiment) else trained(QUICKSTART)


def trained(config: Path) -> Path:
    """The directory of a config's finished run in FOLDER, trained as far as it is not."""
    experiment = load_experiment(config, [f"run.output_dir={FOLDER}"])
    path = RunDirectory.planned(experiment).path
    begun = same_settings(path, experiment)
    if begun and finished(path):
        return path
    with redirect_stdout(sys.stderr):
        return resume(path) if begun else train(experiment, overwrite=True)


def finished(path: Path) -> bool:
    """Whether a folder holds a run that has come to its end."""
    return RunDirectory(path).summary.exists()


def same_settings(path: Path, experiment: Experiment) -> bool:
    """Whether a folder holds a run of this experiment, wherever its workers were and whatever its prompts' files are
    called."""
    if not RunDirectory(path).config.exists():
        return False
    theirs, ours = RunDirectory.open(path).experiment(), experiment.run
    run = replace(theirs.run, output_dir=ours.output_dir, prompts=ours.prompts, heldout_prompts=ours.heldout_prompts)
    return replace(theirs, run=run, cluster=experiment.cluster, left_out=experiment.left_out) == experiment


def copied(path: Path, name: str) -> Path:
    """A copy of a run, without what was drawn of it."""
    copy = FOLDER / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(RunDirectory(path).questions.name))
    return copy


def untrained(path: Path) -> Path:
    """A copy of a run that has come no further than the base model."""
    copy = copied(path, "untrained")
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
    found = table.cell("diversity", "quickstart", column="share kept")
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
    """It has moved, at every step."""
    steps = [row.cells[0] for row in table.rows if row.labels[0].startswith("KL at step")]
    distance = table.cell(MMD, "quickstart", "base", column="value")
    chance = table.cell(P_VALUE, "quickstart", "base", column="value").mean
    drift = table.cell("KL, mean over steps", "quickstart", "base", column="value")
    return {"ok": min(cell.mean for cell in steps) > 0, "mmd2": said(distance), "p_value": chance} | said(drift)


def itself(table: Table) -> Facts:
    """A run against itself: a half, within its interval."""
    found = table.cell("quickstart (2)", REWARD, column="win rate")
    return {"ok": found.mean == 0.5 and found.low <= 0.5 <= found.high} | said(found)


def generalisation(table: Table) -> Facts:
    """The quickstart has raised its reward, and the other run's reward judges too."""
    gains = {row.labels[1]: row for row in table.rows if row.labels[2] == "gain"}
    found = {name: row.cells[table.columns.index(name)] for name, row in gains.items()}
    return {"ok": found[REWARD].low > 0 and len(gains) == 2} | {name: said(cell) for name, cell in found.items()}


def nothing_trained(tables: list[Table]) -> Facts:
    """A run without training: the base model's bits, hence ties, and no drift."""
    found = tables[0].cell("base", OTHER_REWARD, column="win rate")
    tied = tables[0].cell("base", OTHER_REWARD, column="tied")
    drift = tables[1].cell("KL, mean over steps", "other", "base", column="value")
    return {"ok": (found.mean, tied.mean, drift.mean) == (0.5, 1.0, 0.0)} | said(found)


def told(name: str, check: Callable[[], Facts]) -> bool:
    """Prints the line of a check; whether it holds."""
    try:
        facts = check()
    except (ValueError, RuntimeError, KeyError, StopIteration) as problem:
        facts = {"ok": False, "problem": f"{type(problem).__name__}: {problem}"}
    print(json.dumps({"name": name} | facts), flush=True)
    return bool(facts["ok"])


def main() -> None:
    aligned, other = quickstart(), trained(OTHER)
    tables = dict(zip(QUESTIONS, asked(aligned, QUESTIONS, overrides=SETTINGS), strict=True))
    checks = (win_rate, diversity, best_of_n, ood, editing, fidelity)
    results = [told(check.__name__, partial(check, tables[check.__name__])) for check in checks]
    against = asked(aligned, ("win_rate", "generalisation"), [aligned, other])
    results.append(told("win_rate of a run against itself", partial(itself, against[0])))
    results.append(told("generalisation", partial(generalisation, against[1])))
    nothing = asked(untrained(other), ("win_rate", "fidelity"))
    results.append(told("win_rate without training", partial(nothing_trained, nothing)))
    elsewhere = asked(copied(aligned, "copy"), ("win_rate",), overrides=("cluster.runtime=local",))
    results.append(told("win_rate drawn again without Ray", lambda: {"ok": elsewhere[0] == tables["win_rate"]}))
    print(json.dumps({"name": "cost", "ok": all(results), "cpu_seconds_of_this_process": round(time.process_time())}))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
