"""A source of prompts becomes a list of strings, before anything else of a run starts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raypref.core.seeding import Key
from raypref.data.files import read_file
from raypref.data.hub import Unreachable, dataset_files, may_be_dataset, split_files
from raypref.data.named import NAMED
from raypref.data.source import PromptSource
from raypref.registry import nearest


def read_prompts(source: PromptSource, folder: Path) -> tuple[str, ...]:
    """The prompts of a source. Its path is looked for as a file in `folder`, then in the working directory, then as the
    name of a set, then as a dataset of the Hub.

    Raises:
        ValueError: where there is no such source, it does not hold what the source says, or no prompt.
    """
    prompts = _all_prompts(source, folder)
    if not prompts:
        raise ValueError("it holds no prompt")
    if not source.sample:
        return prompts
    if source.sample > len(prompts):
        raise ValueError(f"sample = {source.sample}: it holds {len(prompts)} prompts; use fewer, or 0 for all")
    drawn = Key(0)("prompts").permutation(len(prompts))[: source.sample]
    return tuple(prompts[int(index)] for index in drawn.sort().values)


def read_prompts_here(source: PromptSource, folder: Path) -> tuple[str, ...]:
    """As `read_prompts`; none where they are on a Hub that cannot be asked."""
    try:
        return read_prompts(source, folder)
    except Unreachable:
        return ()


def _all_prompts(source: PromptSource, folder: Path) -> tuple[str, ...]:
    if not source.path:
        raise ValueError('name a set such as "animals:train", a file with one prompt a line, or a Hub dataset')
    places = (folder / source.path, Path(source.path))
    file = next((place for place in places if place.is_file()), None)
    if file is not None:
        return _of_file(source, file)
    if source.path in NAMED:
        return _all_prompts(_meant(source), folder)
    if may_be_dataset(source.path):
        return _of_dataset(source)
    looked = " and ".join(dict.fromkeys(map(str, places)))
    raise ValueError(
        f"no such file; looked for {looked}. Nor is it a Hub dataset's id, or a set{nearest(source.path, NAMED)}"
    )


def _of_file(source: PromptSource, file: Path) -> tuple[str, ...]:
    for key, value in (("split", source.split), ("files", source.files), ("revision", source.revision)):
        if value:
            raise ValueError(f"{key} = {value!r} is for sets and Hub datasets, and {file} is a file; leave it out")
    return read_file(file, source.column or "prompt")


def _meant(source: PromptSource) -> PromptSource:
    """What a named set stands for, with the keys that the config gives in the place of its own."""
    splits = NAMED[source.path]
    if source.split not in splits:
        raise ValueError(
            f"{source.path} has no split {source.split!r}{nearest(source.split, splits)}"
            if source.split
            else f"which split? Write one of {', '.join(f'{source.path}:{split}' for split in splits)}"
        )
    meant = splits[source.split]
    return replace(
        meant,
        column=source.column or meant.column,
        files=source.files or meant.files,
        revision=source.revision or meant.revision,
    )


def _of_dataset(source: PromptSource) -> tuple[str, ...]:
    if not (source.split or source.files):
        raise ValueError(f"which split of the Hub dataset? Write {source.path}:train, say, or name its files")
    patterns = source.files or split_files(source.split)
    _, files = dataset_files(source.path, patterns, source.revision, all_of=bool(source.files))
    if not files:
        wanted = f"fits {', '.join(source.files)}" if source.files else f"is named after split {source.split!r}"
        raise ValueError(f"none of the dataset's files {wanted}; set files to their names, such as data/test-*.parquet")
    found = (prompt for file in files for prompt in read_file(file, source.column or "prompt"))
    return tuple(dict.fromkeys(found))


def without_heldout(prompts: Sequence[str], heldout: Sequence[str]) -> tuple[str, ...]:
    """The prompts to train on: a held-out prompt is left out, unless the two lists are one, and so the run is meant to
    be judged on what it trains on.

    Raises:
        ValueError: where none is left.
    """
    if set(prompts) == set(heldout):
        return tuple(prompts)
    held = set(heldout)
    kept = tuple(prompt for prompt in prompts if prompt not in held)
    if not kept:
        raise ValueError("every one of its prompts is held out too, and what is held out is not trained on")
    return kept
