"""LAION's aesthetic predictor v2, the reward that DDPO, D3PO, TailorPO and RDPO report first."""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from raypref.rewards.base import Reward
from raypref.rewards.clip_towers import precise
from raypref.rewards.linear_head import LinearHead
from raypref.rewards.pixels import clip_pixels
from raypref.rewards.weights import Dtype, pretrained, read_state

HEAD_URL = (
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/6934dd81792f086e613a121dbce43082cb8be85e/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth#sha256=21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
)
"""The author's last commit, and what the file there holds."""


class Aesthetic(Reward):
    """A linear score of a picture's normalised CLIP ViT-L/14 embedding (Schuhmann 2022, "LAION aesthetics").

    Weights come from the hub and from the author's repository unless local paths are given. Only the vision tower is
    kept in memory.
    """

    name: ClassVar[str] = "aesthetic"
    unit: ClassVar[str] = "LAION aesthetic points"
    range: ClassVar[str] = "about 1 to 10"
    differentiable: ClassVar[bool] = True

    def __init__(
        self,
        clip: str = "openai/clip-vit-large-patch14",
        head: str = HEAD_URL,
        device: str = "auto",
        dtype: Dtype = "float32",
    ) -> None:
        """Loads both models.

        Args:
            clip: hub id or folder of the CLIP model.
            head: URL, file, or owner/name/file on the hub of the linear head's state dict.
            device: a torch device; auto is cuda where there is one.
            dtype: precision of the tower.

        Raises:
            OSError: where weights can be neither found nor downloaded.
            ValueError: where the head's keys are not the published ones.
        """
        self.tower = pretrained(CLIPVisionModelWithProjection, "clip", clip, device, dtype)
        self.size: int = self.tower.config.image_size
        self.head = LinearHead.folded(read_state("head", head), "head", self.tower.device)

    def score(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """See the class; the prompt does not matter."""
        pixels = clip_pixels(images.to(self.tower.device), self.size)
        features = self.tower(pixel_values=pixels.to(self.tower.dtype)).image_embeds
        return self.head(F.normalize(precise(features), dim=-1))
