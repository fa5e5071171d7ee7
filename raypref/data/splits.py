"""Which files of a folder belong to a split, and which splits their names show."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from raypref.data.hub import SHARD, split_files

USUAL = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")
"""What splits are called where files are not numbered as the Hub's are."""


def files_of_split(folder: Path, suffix: str, split: str) -> list[Path]:
    """The files below a folder, in the order of their names, that belong to a split by the Hub's naming; all of them
    where `split` is empty or "*"."""
    patterns = split_files(split or "*", (suffix,))
    return [
        file
        for file in sorted(folder.rglob(f"*{suffix}"))
        if any(fnmatchcase(file.relative_to(folder).as_posix(), pattern) for pattern in patterns)
    ]


def splits_shown(folder: Path, files: Iterable[Path]) -> list[str]:
    """The splits that names of files below a folder show."""
    return sorted({split for file in files if (split := _shown(file.relative_to(folder).as_posix()))})


def _shown(name: str) -> str:
    """Of test/0000.parquet, test-0.parquet or test_unique-00000-of-00001.parquet: the split; of others: nothing."""
    place = PurePosixPath(name)
    usual = next((word for word in (place.parent.name, place.stem.partition("-")[0]) if word in USUAL), "")
    shard = SHARD.match(place.name)
    return usual or (shard[1].removesuffix("-") if shard else "")
