"""The README's table: held-out figures before and after, a row a run. `make quickstart-seeds` calls it."""

import json
import sys
from pathlib import Path


def row(path: Path) -> str:
    """One run as a Markdown row."""
    summary = json.loads((path / "summary.json").read_text())
    reward, match, spread = summary["reward"], summary["prompt_match"], summary["diversity"]
    accuracy = summary["accuracy"]
    cells = [
        str(summary["seed"]),
        f"{reward['base']:.3f} → {reward['final']:.3f} ({reward['final'] / reward['base'] - 1:+.0%})",
        f"{match['base']:.3f} → {match['final']:.3f}",
        *(f"{accuracy[name]['base']:.2f} → {accuracy[name]['final']:.2f}" for name in ("color", "place", "animal")),
        f"{spread['base']:.3f} → {spread['final']:.3f} ({spread['final'] / spread['base']:.0%})",
        str(summary["pairs"]),
        f"{summary['training_seconds']:.0f} s",
    ]
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| seed | colourfulness | prompt match | colour right | place right | animal right | diversity | pairs | training |"
)

if __name__ == "__main__":
    print(HEADER)
    print("|---" * HEADER.count(" | ") + "|---|")
    for name in sys.argv[1:]:
        print(row(Path(name)))
