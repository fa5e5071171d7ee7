"""Saved networks and pipelines without the place that they were loaded from."""

import json
from pathlib import Path


def forget_places(folder: Path) -> None:
    """Takes the paths of this machine out of what diffusers and transformers have written: each notes in its configs
    where it was loaded from, and nobody reads that back."""
    for file in (*folder.rglob("*config.json"), *folder.rglob("model_index.json")):
        told = json.loads(file.read_text())
        kept = {key: value for key, value in told.items() if key not in ("_name_or_path", "name_or_path")}
        if kept != told:
            file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
