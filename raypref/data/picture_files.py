"""Pictures that users bring for evaluation: a folder of them, or a list of edits."""

import json
from pathlib import Path

from PIL import Image

from raypref.data.pictures import FORMATS

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name.

    Raises:
        ValueError: where there is no such folder, or a file of it cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    for file in files:
        check_picture(file)
    return files


def list_edits(file: Path) -> list[tuple[Path, str]]:
    """Pictures and the prompts that describe what they are to become: JSON lines such as
    {"image": "boat.png", "prompt": "a boat in a storm"}, with paths beside the file.

    Raises:
        ValueError: where the file, a line of it or a picture cannot be read.
    """
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_edit(line, file, number))
    if not found:
        raise ValueError(f"{file}: it holds no edit")
    return found


def _edit(line: str, file: Path, number: int) -> tuple[Path, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{file}, line {number}: no JSON ({problem})") from None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) and row[key] for key in ("image", "prompt")):
        raise ValueError(f'{file}, line {number}: write {{"image": "boat.png", "prompt": "a boat in a storm"}}')
    picture = file.parent / row["image"]
    check_picture(picture)
    return picture, row["prompt"]


def check_picture(file: Path) -> None:
    """Raises ValueError where a file cannot be read as a picture."""
    try:
        with Image.open(file, formats=FORMATS) as picture:
            picture.verify()
    except Exception as problem:  # Pillow's decoders raise errors of every kind over damaged files
        raise ValueError(f"{file}: not readable as a picture ({type(problem).__name__})") from None
