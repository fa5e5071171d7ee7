"""Which format a path is in."""

from collections.abc import Callable
from pathlib import Path

from raypref.data.folder_table import FolderTable
from raypref.data.parquet_table import ParquetTable
from raypref.data.preferences import UnusableSet
from raypref.data.table import PictureTable
from raypref.data.webdataset_table import WebDatasetTable

FORMATS: dict[str, Callable[[Path], PictureTable]] = {
    ".parquet": ParquetTable,
    ".tar": WebDatasetTable,
    ".jsonl": FolderTable,
}
"""By the suffix of a file, or of files in a folder."""


def open_table(path: Path) -> PictureTable:
    """The pictures of a file or folder. No picture is read.

    Raises:
        UnusableSet: where there is nothing of a known format, or it is empty.
    """
    if not path.exists():
        raise UnusableSet(f"{path}: there is no such file or folder")
    kind = _of_folder(path) if path.is_dir() else FORMATS.get(path.suffix)
    if kind is None:
        raise UnusableSet(
            f"{path} is none of a .parquet, .tar or .jsonl file, or a folder with such; to use a picture folder, write "
            'a line {"jpg_0": "a.png", "jpg_1": "b.png", "caption": "...", "label_0": 1, "label_1": 0} for each pair '
            "into its metadata.jsonl"
        )
    table = kind(path)
    if not len(table):
        raise UnusableSet(f"{path} holds no row")
    return table


def _of_folder(folder: Path) -> Callable[[Path], PictureTable] | None:
    lines = any(folder.glob("*.jsonl"))
    kinds = [
        kind for suffix, kind in FORMATS.items() if (lines if suffix == ".jsonl" else any(folder.rglob(f"*{suffix}")))
    ]
    if len(kinds) > 1:
        raise UnusableSet(
            f"{folder} holds files of several formats ({', '.join(FORMATS)}); name one file, or a folder of one"
        )
    return kinds[0] if kinds else None
