"""Who worked on a run: the part of its report about workers that joined, left or were lost, and about resumes."""

import html
from collections import Counter
from typing import Any

from raypref.core.counted import counted

SHOWN = 100
"""Lines of the table, the newest."""


def workers_table(rows: list[dict[str, Any]]) -> str:
    """HTML from the rows of `workers.jsonl`; empty where there is none."""
    if not rows:
        return ""
    counts = Counter((row["role"], row["kind"]) for row in rows)
    roles = list(dict.fromkeys(row["role"] for row in rows if row["kind"] != "resumed"))
    told = [
        f"{counted(counts[role, 'joined'], role)} joined"
        + "".join(f", {counts[role, kind]} {kind}" for kind in ("left", "lost", "failed") if counts[role, kind])
        for role in roles
    ]
    if counts["run", "resumed"]:
        times = counts["run", "resumed"]
        told.append(f"the run was resumed {'once' if times == 1 else f'{times} times'}")
    lines = "".join(map(_line, rows[-SHOWN:]))
    return (
        f"<h2>Workers</h2><p class='note'>{html.escape('; '.join(told))}.</p><table><tr><th>time</th>"
        f"<th>iterations done</th><th>role</th><th></th><th>where</th><th>why</th></tr>{lines}</table>"
    )


def _line(row: dict[str, Any]) -> str:
    why = row["why"].splitlines()[0] if row["why"] else ""
    cells = (row["time"], row["iteration"], row["role"], row["kind"], row["where"], why)
    return f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in cells)}</tr>"
