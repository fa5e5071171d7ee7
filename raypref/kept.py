"""What was drawn for questions, on the disk: a file a chunk, so that a kill costs the chunks that were on their way."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from raypref.train.folder import replace_file
from raypref.train.scorer import Judgement
from raypref.train.stopped import StoppedRun

MADE_WITH = "made_with.json"
SCORES, IMAGES, KL = "scores/", "images", "kl"


class Kept:
    """A folder with a shelf for each policy and scene, named after everything that the pictures depend on. What lies
    there is what would be drawn again, so any shelf may be deleted at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incomplete = set[Path]()

    def shelf(self, made_with: Mapping[str, Any]) -> Path:
        """Where the chunks of what was made so lie.

        Raises:
            StoppedRun: where nothing can be written.
        """
        text = json.dumps(made_with, indent=1, default=str)
        shelf = self.folder / hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        with _writing():
            shelf.mkdir(parents=True, exist_ok=True)
            if not (shelf / MADE_WITH).exists():
                replace_file(shelf / MADE_WITH, text.encode())
        return shelf

    def lacks(self, shelf: Path, chunk: int, pictures: bool) -> bool:
        """Whether a chunk is to be drawn: it is not there, or without its pictures, or lacks scores that an earlier
        process could not get."""
        file = _file(shelf, chunk)
        try:
            with safe_open(file, "pt") as content:
                whole = not json.loads(content.metadata()["failures"]) or file in self._incomplete
                return not whole or (pictures and IMAGES not in content.keys())  # noqa: SIM118  # it is no dict
        except (FileNotFoundError, SafetensorError):
            return True

    def put(self, shelf: Path, chunk: int, judgement: Judgement, pictures: bool) -> None:
        """Keeps the scores of a chunk, and its pictures where they are wanted: whole, or not at all.

        Raises:
            StoppedRun: where it cannot be written.
        """
        tensors = {f"{SCORES}{name}": scores.contiguous() for name, scores in judgement.scores.items()}
        if judgement.kl is not None:
            tensors[KL] = judgement.kl.contiguous()
        if pictures:
            tensors[IMAGES] = judgement.images.contiguous()
        told = {"failures": json.dumps(judgement.failures), "names": json.dumps(list(judgement.scores))}
        with _writing():
            replace_file(_file(shelf, chunk), save(tensors, told))
        if judgement.failures:
            self._incomplete.add(_file(shelf, chunk))

    def chunks(self, shelf: Path, prompts: list[tuple[str, ...]], pictures: bool) -> Iterator[Judgement]:
        """The chunks of a shelf, in their order, with the prompts of each; where no pictures are wanted, they have no
        pixels."""
        for chunk, of_chunk in enumerate(prompts):
            with safe_open(_file(shelf, chunk), "pt") as content:
                told = content.metadata()
                scores = {name: content.get_tensor(f"{SCORES}{name}") for name in json.loads(told["names"])}
                nothing = next(iter(scores.values())).new_empty(len(of_chunk), 0, 0, 3).byte()
                yield Judgement(
                    prompts=of_chunk,
                    images=content.get_tensor(IMAGES) if pictures else nothing,
                    scores=scores,
                    accuracy={},
                    failures=json.loads(told["failures"]),
                    kl=content.get_tensor(KL) if KL in content.keys() else None,  # noqa: SIM118
                )


def fingerprints(settings: object) -> dict[str, str]:
    """What tells one state from another of every file and folder that settings name: sizes, and times of the last
    change. A reward's code may change under one name."""
    if isinstance(settings, Mapping):
        return fingerprints(list(settings.values()))
    if isinstance(settings, list | tuple):
        return {name: found for value in settings for name, found in fingerprints(value).items()}
    paths = (settings, settings.rpartition(":")[0]) if isinstance(settings, str) else ()  # "my_reward.py:score"
    return {path: _fingerprint(Path(path)) for path in paths if path and os.path.exists(path)}


def _fingerprint(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()


def _file(shelf: Path, chunk: int) -> Path:
    return shelf / f"{chunk:06d}.safetensors"


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StoppedRun(
            f"{problem.filename}: {problem.strerror}. Make room or make it writable, and ask again: what has been "
            "drawn is kept"
        ) from problem
