"""LAION's aesthetic predictor v2, the reward that DDPO, D3PO, TailorPO and RDPO report first."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from raypref.rewards.base import Reward

HEAD_URL = (
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth"
)
LAYERS = (0, 2, 4, 6, 7)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Aesthetic(Reward):
    """A linear score, about 1 to 10, of a picture's normalised CLIP ViT-L/14 embedding (Schuhmann 2022, "LAION
    aesthetics").

    The published head is five linear layers without activations between them, so it is folded into one affine map. The
    preprocessing is CLIP's (short side to the tower's size, bicubic, centre crop), in torch, so that gradients reach
    the picture. Weights come from the hub and from the author's repository unless local paths are given.
    """

    name: ClassVar[str] = "aesthetic"
    unit: ClassVar[str] = "LAION aesthetic points"
    differentiable: ClassVar[bool] = True

    def __init__(self, clip: str = "openai/clip-vit-large-patch14", head: str = HEAD_URL, device: str = "auto") -> None:
        """Loads both models.

        Args:
            clip: hub id or folder of the CLIP model.
            head: URL or path of the linear head's state dict.
            device: a torch device; auto is cuda where there is one.

        Raises:
            OSError: where weights can be neither found nor downloaded.
            ValueError: where the head's keys are not the published ones.
        """
        use_cuda = device == "auto" and torch.cuda.is_available()
        self.device = torch.device("cuda" if use_cuda else "cpu" if device == "auto" else device)
        tower = CLIPVisionModelWithProjection.from_pretrained(clip, use_safetensors=True)
        self.tower = tower.to(self.device).eval().requires_grad_(False)
        self.size: int = self.tower.config.image_size
        self.weight, self.bias = (part.to(self.device) for part in fold_head(read_head(head)))

    def score(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """See the class; the prompt does not matter."""
        features = self.tower(pixel_values=clip_pixels(images.to(self.device), self.size)).image_embeds
        return F.normalize(features.float(), dim=-1) @ self.weight + self.bias


def read_head(source: str) -> dict[str, Tensor]:
    """The head's state dict from a URL or a file. It is published pickled; `weights_only` runs no code of it."""
    if source.startswith("https://"):
        return torch.hub.load_state_dict_from_url(source, map_location="cpu", weights_only=True)
    if not Path(source).is_file():
        raise OSError(f"reward.head = {source!r}: no such file; leave the key out to download the published head")
    return torch.load(source, map_location="cpu", weights_only=True)


def fold_head(state: dict[str, Tensor]) -> tuple[Float[Tensor, " D"], Float[Tensor, ""]]:
    """The head's linear layers as one affine map, composed in float64.

    Raises:
        ValueError: where a key is missing or unknown.
    """
    wanted = {f"layers.{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    if set(state) != wanted:
        raise ValueError(f"reward.head: its keys are {sorted(state)}, but the published head has {sorted(wanted)}")
    weight = torch.eye(state["layers.0.weight"].shape[1], dtype=torch.float64)
    bias = torch.zeros(len(weight), dtype=torch.float64)
    for layer in LAYERS:
        matrix = state[f"layers.{layer}.weight"].double()
        weight, bias = matrix @ weight, matrix @ bias + state[f"layers.{layer}.bias"].double()
    return weight[0].float(), bias[0].float()


def clip_pixels(images: Float[Tensor, "B 3 H W"], size: int) -> Float[Tensor, "B 3 size size"]:
    """CLIP's preprocessing of pictures in [0, 1]: short side to `size` (antialiased bicubic), crop, normalise."""
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    shape = (max(size, int(height * scale)), max(size, int(width * scale)))
    resized = F.interpolate(images, shape, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = round((shape[0] - size) / 2), round((shape[1] - size) / 2)
    cropped = resized[..., top : top + size, left : left + size]
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (cropped - mean) / std
