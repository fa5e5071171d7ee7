"""How tables of questions are shown: in a terminal, and on a page."""

import html
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.table import Table as Lines

from raypref.core.counted import counted
from raypref.evaluate.table import Measured, Table

WIDTH = 240
"""Characters of a line where nobody's terminal says."""


def echo(table: Table) -> None:
    """Prints a table."""
    console = Console(markup=False, width=None if sys.stdout.isatty() else WIDTH)
    columns = [Column(head, overflow="fold") for head in table.heads]
    lines = Lines(*columns, *(Column(name, justify="right") for name in (*table.columns, "n")), title=table.question)
    for row in table.rows:
        lines.add_row(*row.labels, *map(str, row.cells), prompts_of(row.cells))
    console.print(lines)
    for text in (table.caption, *table.notes):
        console.print(text, highlight=False)


def prompts_of(cells: tuple[Measured, ...]) -> str:
    """How many prompts a row is of."""
    counts = sorted({cell.n for cell in cells})
    return "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))


def answers_section(rows: list[dict[str, Any]], title: str = "Questions") -> str:
    """HTML from the rows of `answers.jsonl`: of what was asked again, the newest; empty where nothing was asked."""
    newest = {_identity(row): row for row in rows}
    if not newest:
        return ""
    return (
        f"<h2>{html.escape(title)}</h2>"
        "<p class='note'>Mean ± standard error over prompts [95 % interval: bootstrap, or, of a share near 0 or 1, "
        "Wilson's].</p>"
        f"{''.join(_section(row) for row in newest.values())}"
    )


def _identity(row: dict[str, Any]) -> str:
    made_with = ("question", "settings", "contenders", "images_per_prompt", "sampling", "seed", "caption")
    return json.dumps([row[name] for name in made_with], sort_keys=True)


def _section(row: dict[str, Any]) -> str:
    trained = [one for one in row["contenders"] if one["reward"]]
    who = ", ".join(f"{one['label']} after {counted(one['iteration'], 'iteration')}" for one in trained)
    sampling = row["sampling"]
    made = (
        f"{row['images_per_prompt']} pictures a prompt, {sampling['num_inference_steps']} steps of "
        f"{sampling['scheduler']}, guidance {sampling['guidance_scale']:g}. {who}"
    )
    return (
        f"<h3>{html.escape(row['question'])}</h3>{table_html(Table.read(row))}<p class='note'>{html.escape(made)}.</p>"
    )


def table_html(table: Table) -> str:
    """A table and what it says of itself."""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in (*table.heads, *table.columns, "n"))
    body = "".join(
        f"<tr>{''.join(map(_label, row.labels))}{''.join(map(_cell, row.cells))}<td>{prompts_of(row.cells)}</td></tr>"
        for row in table.rows
    )
    notes = "".join(f"<p class='note'>{html.escape(text)}</p>" for text in (table.caption, *table.notes))
    return f"<div class='wide'><table><tr>{heads}</tr>{body}</table></div>{notes}"


def _label(text: str) -> str:
    return f"<td class='label'>{html.escape(text)}</td>"


def _cell(cell: Measured) -> str:
    mean, interval = cell.parts()
    return f"<td title='n = {cell.n}'>{mean}<br><small>{interval}</small></td>"
