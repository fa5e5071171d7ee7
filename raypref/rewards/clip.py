"""CLIP score: the cosine between a picture's and its prompt's features."""

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from transformers import CLIPModel

from raypref.rewards.base import Featured, Reward
from raypref.rewards.clip_towers import ClipTowers
from raypref.rewards.pixels import clip_pixels
from raypref.rewards.prompts import load_tokenizer
from raypref.rewards.weights import Dtype, pretrained


class Clip(Reward, Featured):
    """Radford et al. 2021, arXiv:2103.00020. Hessel et al.'s CLIPScore (arXiv:2104.08718) is 2.5 times this, from 0.

    The same preprocessing and tokens as transformers' CLIPProcessor.
    """

    name: ClassVar[str] = "clip"
    unit: ClassVar[str] = "cosine"
    range: ClassVar[str] = "-1 to 1"
    differentiable: ClassVar[bool] = True

    def __init__(
        self,
        tower: str = "openai/clip-vit-large-patch14",
        tokenizer: str = "",
        device: str = "auto",
        dtype: Dtype = "float32",
    ) -> None:
        """Loads both towers.

        Args:
            tower: hub id or folder of any CLIP in transformers' layout.
            tokenizer: hub id or folder; the tower's where empty.
            device: a torch device; auto is cuda where there is one.
            dtype: precision of the towers.

        Raises:
            OSError: where weights can be neither found nor downloaded.
            ValueError: where weights are missing, or the tokenizer is not the towers'.
        """
        model = pretrained(CLIPModel, "tower", tower, device, dtype)
        words = load_tokenizer(tokenizer or tower, model.config.text_config.vocab_size)
        self.towers = ClipTowers(model, words)

    def score(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """See the class."""
        return self.towers.cosine(clip_pixels(images.to(self.towers.device), self.towers.size), prompts)

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """CLIP's, of length 1."""
        return self.towers.images(clip_pixels(images.to(self.towers.device), self.towers.size))
