"""Do the ranges in pyproject.toml hold? The tests below, with every dependency at its floor, and at its newest.

`python -m experiments.version_ranges [floor] [newest]` prints a JSON line for each. Each has an environment of 2 GB
below the temporary folder, made once: a second call with the same ranges goes on from there. torch is always the one
of constraints.txt, for older ones are not built for every machine; what comes with the dependencies is the newest."""

import json
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

FOLDER = Path(tempfile.gettempdir()) / "raypref-versions"
ENDS = ("floor", "newest")
EXTRAS = ("data", "parquet", "tune", "wandb")
TESTS = (
    *("tests/models", "tests/rewards", "tests/evaluate", "tests/data", "tests/train/test_every_method.py"),
    *("tests/test_memory.py", "tests/test_cli.py", "tests/cluster", "tests/tune"),
)


def declared() -> list[Requirement]:
    """What users may install: the direct dependencies and those of the extras, each once."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    optional = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return list({each.name: each for each in map(Requirement, [*optional, *project["dependencies"]])}.values())


def constraints(which: str) -> str:
    """pip's constraints for one end of the ranges."""
    pinned = next(line for line in Path("constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    ranges = [f"{each.name}{each.specifier}" for each in declared() if each.name != "torch"]
    lines = [pinned, *(line.replace(">=", "==") if which == "floor" else line for line in ranges)]
    return "\n".join(lines) + "\n"


def environment(which: str) -> Path:
    """The Python of an environment at one end of the ranges, made where it is not there yet."""
    folder, wanted = FOLDER / which, constraints(which)
    python, done, asked = folder / "bin" / "python", folder / "installed.txt", folder / "constraints.txt"
    if done.is_file() and done.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    asked.write_text(wanted)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(asked)]
    subprocess.run([*pip, "--editable", f".[{','.join(('dev', *EXTRAS))}]"], check=True)
    asked.rename(done)
    return python


def versions(python: Path) -> dict[str, str]:
    """What is installed of the direct dependencies."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True)
    found = {entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(listed.stdout)}
    return {each.name: found[each.name.replace("_", "-")] for each in declared()}


def last_words(log: Path, code: int) -> str:
    """pytest's summary; or how it ended, where it came to print nothing."""
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else f"nothing was printed; exit code {code}"


def check(which: str) -> dict[str, Any]:
    """What was installed, whether pip finds it consistent, and what the tests say."""
    started = time.perf_counter()
    python = environment(which)
    consistent = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True)
    log = FOLDER / f"{which}.log"
    with log.open("w") as out:
        tests = subprocess.run([python, "-m", "pytest", "-q", "-m", "not slow", *TESTS], stdout=out, stderr=out)
    return {
        "name": which,
        "ok": consistent.returncode == tests.returncode == 0,
        "pip_check": consistent.stdout.strip(),
        "tests": last_words(log, tests.returncode),
        "versions": versions(python),
        "seconds": round(time.perf_counter() - started),
    }


def main() -> None:
    rows = []
    for which in sys.argv[1:] or ENDS:
        rows.append(check(which))
        print(json.dumps(rows[-1]), flush=True)
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    main()
