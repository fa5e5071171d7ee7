"""What a config says of where preferences come from."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """`[data]`: labelled pictures that somebody else has made. See docs/data.md."""

    path: str = ""
    """A Parquet file or a folder of them, a folder of pictures with JSON lines, a tar file or a folder of them in
    WebDataset's layout, the id of a Hub dataset of Parquet or tar files, or a folder that `raypref prepare` has made.
    Empty: the run has no such data."""
    split: str = ""
    """Of a folder or a Hub dataset: only the files that are named after this split, such as "train"; "*": all. Empty:
    all, but the names may not show several splits. Of a folder that `raypref prepare` has made it has no say."""
    images: tuple[str, ...] = ("jpg_0", "jpg_1")
    """Columns with the pictures. Two: pairs. One: single pictures."""
    caption: str = "caption"
    """The column with the prompt."""
    labels: tuple[str, ...] = ("label_0", "label_1")
    """One column for each of `images`: of a pair the larger label is preferred, equal ones are a tie; a single picture
    is desirable above 0. Empty: single pictures are all desirable, and the first of a pair is preferred."""
    ties: Literal["drop", "keep"] = "drop"
    """keep: a tie is a pair with the label 0.5."""
    duplicate_prompts: Literal["keep", "first"] = "keep"
    """first: of rows with the same prompt only the first that has a label is used, whether or not its pictures can be
    read."""
    unreadable: Literal["stop", "skip"] = "stop"
    """What to do where a picture cannot be read. skip: leave its row out, and count it."""
    random_flip: bool = False
    """Half of the rows are mirrored, at random, anew in every pass. Both versions of a picture are encoded."""
    prompt_dropout: float = 0.0
    """Share of the rows that are trained on with the empty prompt, drawn anew in every pass."""
    cache_dir: str = "latents"
    """Where encoded latents are kept, a folder for each set and way to encode it."""
    prepared: str = ""
    """Written by a run into its own config: that folder. It is read in the place of `path`, and made again where it is
    lost and `path` is what it was."""

    def __post_init__(self) -> None:
        if len(self.images) not in (1, 2):
            raise ValueError(f"images = {list(self.images)}: name one column (single pictures) or two (pairs).")
        if self.labels and len(self.labels) != len(self.images):
            raise ValueError(
                f"labels = {list(self.labels)}: name one for each of images = {list(self.images)}, or none ([])."
            )
        if not 0 <= self.prompt_dropout < 1:
            raise ValueError(f"prompt_dropout = {self.prompt_dropout}: use 0 (off) to below 1, such as 0.2.")
