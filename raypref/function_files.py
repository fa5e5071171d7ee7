"""Where the files of a user's reward functions are: beside the config, or in the working folder."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raypref.checks import ConfigError
from raypref.cluster.job_folder import in_job_folder

Table = dict[str, Any]
FUNCTION = re.compile(r"\.py:[A-Za-z_]\w*$")
"""What a setting such as "my_reward.py:score" ends in."""


def located(tables: Table, folder: Path) -> Table:
    """The tables of a config in `folder`, with the files of functions by paths that are good from anywhere. Only those
    in a job's working folder stay relative: it is another one when the run goes on.

    Raises:
        ConfigError: where a file is in neither place.
    """
    return _changed(tables, partial(_found, folder=folder))


def travelling(tables: Table, files: Sequence[Path]) -> Table:
    """The tables with the files of functions by the names of `files`, which a job takes along."""
    names = {str(file.resolve()): str(file) for file in files}

    def name(path: str, where: str) -> str:
        file, _, function = path.rpartition(":")
        return f"{names.get(file, file)}:{function}"

    return _changed(tables, name)


def _changed(tables: Table, change: Callable[[str, str], str]) -> Table:
    """`change` is given every function of the rewards', and the setting that names it."""
    return tables | {name: _walk(tables[name], change, name) for name in ("reward", "evaluate") if name in tables}


def _walk(value: Any, change: Callable[[str, str], str], where: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _walk(each, change, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_walk(each, change, f"{where}[{number}]") for number, each in enumerate(value)]
    return change(value, where) if isinstance(value, str) and FUNCTION.search(value) else value


def _found(path: str, where: str, folder: Path) -> str:
    file, _, function = path.rpartition(":")
    places = list(dict.fromkeys((folder / file, Path(file))))
    found = next((place.resolve() for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(
            f"{where} = {path!r}: no such file; looked for {' and '.join(map(str, places))}. Name a Python file, from "
            "the config's folder or the working folder, and a function in it: my_reward.py:score"
        )
    stays = in_job_folder() and found.is_relative_to(Path.cwd())
    return f"{os.path.relpath(found) if stays else found}:{function}"
