"""Pictures that are to be edited become clean latents, in the sampler that edits them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from raypref.data.pictures import read_picture
from raypref.models.base import Encoder


class Sources:
    """The encoder is loaded with the first pictures: few runs have any."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self._encoder: Encoder | None = None

    def __call__(self, pictures: tuple[bytes, ...]) -> Float[Tensor, "P C H W"]:
        """Latents of pictures' files, each encoded alone, so that bits never depend on company."""
        self._encoder = self._encoder or self._load()
        side = self._encoder.side
        return torch.cat([self._encoder.encode(read_picture(picture, side)[None]) for picture in pictures])
