"""Files of a dataset on the Hub, from its cache or downloaded into it."""

import fnmatch
import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from raypref.data.files import TABLES

LOG = logging.getLogger("raypref")

SUFFIXES = (".txt", *TABLES)
PICTURES = (".parquet", ".tar")
"""Files with pictures inside: what is read of a dataset with labelled pictures."""
ID = re.compile(r"[\w.-]+/[\w.-]+")
SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})")
"""data/train-00000-of-00007, and what may follow."""


class Unreachable(ValueError):
    """A dataset that is not in the Hub's cache, while the Hub cannot be asked."""


def may_be_dataset(path: str) -> bool:
    """Whether what is no path of this disk may be the id of a dataset: owner/name, and no file's name."""
    return ID.fullmatch(path) is not None and Path(path).suffix not in (*SUFFIXES, *PICTURES)


def split_files(split: str, suffixes: tuple[str, ...] = SUFFIXES) -> tuple[str, ...]:
    """Patterns of the files that belong to a split by the Hub's naming: test.jsonl, data/test-00000-of-00001.parquet,
    default/test/0000.parquet."""
    return tuple(
        f"{folder}{split}{rest}{suffix}" for folder in ("", "*/") for rest in ("", "-*", "/*") for suffix in suffixes
    )


def dataset_files(
    name: str, patterns: tuple[str, ...], revision: str | None = None, all_of: bool = False
) -> tuple[Path, list[Path]]:
    """The folder of dataset `name` in the Hub's cache, and its files that fit a pattern, in the order of the patterns.
    Only these are downloaded.

    Where the Hub is not to be asked, what is in its cache is used, and the log says so. With `all_of` each pattern that
    is a plain name must be there.

    Raises:
        Unreachable: where they can be neither found in the cache nor downloaded.
        ValueError: where there are none, or some are missing.
    """
    folder, wanted = _snapshot(name, patterns, revision)
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = list(dict.fromkeys(file for pattern in patterns for file in fnmatch.filter(there, pattern)))
    linked = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()}
    promised = {file for file in wanted | linked if _fits(file, patterns)}
    promised |= {pattern for pattern in patterns if all_of and not set(pattern) & set("*?[")}
    if found and (lacking := sorted(promised - set(found) | _lost_shards(found, patterns))):
        more = ", ..." if len(lacking) > 3 else ""
        raise ValueError(
            f"its copy in the Hub's cache is not whole: it lacks {', '.join(lacking[:3])}{more}; "
            f"run `hf download {name} --repo-type dataset` where there is network"
        )
    return folder, [folder / file for file in found]


def _snapshot(name: str, patterns: tuple[str, ...], revision: str | None) -> tuple[Path, set[str]]:
    """The folder that holds a dataset's files, and the names of all that the Hub has, as far as it could be asked."""
    try:
        there = HfApi().dataset_info(name, revision=revision or "main", timeout=10).siblings or ()
        folder = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
        return Path(folder), {file.rfilename for file in there}
    except Exception as problem:  # every version of the Hub's client, and of what it stands on, has errors of its own
        said = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
    try:
        wanted = {"revision": revision, "allow_patterns": list(patterns)}
        folder = snapshot_download(name, repo_type="dataset", local_files_only=True, **wanted)
    except Exception:
        raise Unreachable(
            f"neither in the Hub's cache nor to be downloaded ({said}); fill the cache where there is network "
            "(docs/prompts.md), or name a file"
        ) from None
    LOG.warning("dataset %s: the Hub's cache is used, commit %s, as the Hub could not be asked (%s)",
                name, Path(folder).name, said)  # fmt: skip
    return Path(folder), set()


def _lost_shards(files: list[str], patterns: tuple[str, ...]) -> set[str]:
    """Shards that fit a pattern and are not there, where the names of others say how many there are."""
    there = {found.groups(): file for file in files if (found := SHARD.match(file))}
    lost = {
        f"{head}{number:05d}-of-{count}": f"{head}{number:05d}{file.removeprefix(head)[5:]}"
        for (head, _, count), file in there.items()
        for number in range(int(count))
        if (head, f"{number:05d}", count) not in there
    }
    return {name for name, file in lost.items() if _fits(file, patterns)}


def _fits(file: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
