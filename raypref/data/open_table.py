"""Which format a path is in."""

from collections.abc import Callable
from pathlib import Path

from raypref.data.folder_table import FolderTable
from raypref.data.hub import PICTURES, dataset_files, may_be_dataset, split_files
from raypref.data.parquet_table import ParquetTable
from raypref.data.preferences import UnusableSet
from raypref.data.splits import files_of_split, splits_shown
from raypref.data.table import PictureTable
from raypref.data.webdataset_table import WebDatasetTable
from raypref.registry import nearest

FORMATS: dict[str, Callable[[Path, list[Path]], PictureTable]] = {
    ".parquet": ParquetTable,
    ".tar": WebDatasetTable,
    ".jsonl": FolderTable,
}
"""By the suffix of a file, or of files in a folder."""


def open_table(path: Path, split: str = "") -> PictureTable:
    """The pictures of a file, of a folder, or of a dataset of the Hub, which is downloaded into its cache. No picture
    is read. Of a folder or dataset those of a split; "*" is all of it.

    Raises:
        UnusableSet: where there is nothing of a known format, it is empty, or it is not clear which split is meant.
    """
    if path.is_file():
        table = _of_file(path, split)
    elif path.is_dir():
        table = _of_folder(path, split)
    elif may_be_dataset(str(path)):
        table = _of_dataset(str(path), split)
    else:
        raise UnusableSet(f"{path}: there is no such file or folder")
    if not len(table):
        raise UnusableSet(f"{path} holds no row")
    return table


def _of_file(file: Path, split: str) -> PictureTable:
    if split:
        raise UnusableSet(f"data.split = {split!r} is for folders and Hub datasets, and {file} is a file; leave it out")
    if file.suffix not in FORMATS:
        raise UnusableSet(f"{file} is {UNKNOWN}")
    return FORMATS[file.suffix](file, [file])


def _of_folder(folder: Path, split: str) -> PictureTable:
    _refuse_saved(folder)
    found = {suffix: files for suffix in FORMATS if (files := _files(folder, suffix, split))}
    if len(found) > 1:
        raise UnusableSet(
            f"{folder} holds files of several formats ({', '.join(FORMATS)}); name one file, or a folder of one"
        )
    if not found:
        raise UnusableSet(f"{folder} {_without(folder, split)}")
    ((suffix, files),) = found.items()
    shown = splits_shown(folder, files)
    if suffix in PICTURES and not split and len(shown) > 1:
        raise UnusableSet(
            f'{folder} holds files of the splits {", ".join(shown)}; set data.split to one of them, or to "*" for all'
        )
    return FORMATS[suffix](folder, files)


def _files(folder: Path, suffix: str, split: str) -> list[Path]:
    """Without a split, JSON lines are those of the folder itself: others may belong to its pictures."""
    if suffix in PICTURES or split:
        return files_of_split(folder, suffix, split)
    return sorted(folder.glob(f"*{suffix}"))


def _without(folder: Path, split: str) -> str:
    there = [file for suffix in FORMATS for file in files_of_split(folder, suffix, "")]
    if not split or not there:
        return f"is {UNKNOWN}"
    return f"has no file that is named after data.split = {split!r}{nearest(split, splits_shown(folder, there))}"


def _of_dataset(name: str, split: str) -> PictureTable:
    if not split:
        raise UnusableSet(
            "there is no such file or folder; if it is a dataset of the Hub, name its split, as in data.split = "
            '"train", for only that is downloaded'
        )
    try:
        folder, files = dataset_files(name, split_files(split, PICTURES))
    except ValueError as problem:
        raise UnusableSet(f"there is no such file or folder, and as a dataset of the Hub: {problem}") from None
    kinds = sorted({file.suffix for file in files})
    if len(kinds) != 1:
        raise UnusableSet(
            f"{' and '.join(kinds) or 'none'} of the Hub dataset's {' or '.join(PICTURES)} files are named after "
            f"data.split = {split!r}; download it, and name the folder or file that is meant"
        )
    return FORMATS[kinds[0]](folder, files)


def _refuse_saved(folder: Path) -> None:
    several = (folder / "dataset_dict.json").exists()
    if several or ((folder / "state.json").exists() and any(folder.glob("*.arrow"))):
        part = '["train"]' if several else ""
        raise UnusableSet(
            f"{folder} was written by save_to_disk of `datasets`, and its Arrow files are not read; make Parquet of "
            f"them: from datasets import load_from_disk; load_from_disk({str(folder)!r}){part}.to_parquet"
            '("train.parquet")'
        )


UNKNOWN = (
    "none of a .parquet, .tar or .jsonl file, or a folder with such; to use a picture folder, write a line "
    '{"jpg_0": "a.png", "jpg_1": "b.png", "caption": "...", "label_0": 1, "label_1": 0} for each pair into its '
    "metadata.jsonl"
)
