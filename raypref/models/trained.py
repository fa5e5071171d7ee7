"""What of a network is trained: an adapter (lora.py), or every weight."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

from raypref.core.weights import FlatParameters
from raypref.models.libraries import Network, Pipeline
from raypref.models.placeless import forget_places


class Trained(ABC):
    """The trainable part of a network, with its parameters as one flat buffer."""

    parameters: FlatParameters

    @abstractmethod
    def off(self) -> AbstractContextManager[None]:
        """Inside it the network is the one that training starts from, bit for bit. For use without gradients."""

    @abstractmethod
    def save(self, folder: Path, pipeline: type[Pipeline], name: str) -> None:
        """Writes it for diffusers; `name` is the network's in the pipeline."""


class WholeNetwork(Trained):
    """Full fine-tuning. The pretrained weights are kept beside the trained ones, as the reference."""

    def __init__(self, network: Network) -> None:
        self.network = network.requires_grad_(True)
        self.parameters = FlatParameters(dict(network.named_parameters()))
        self._pretrained = self.parameters.flat.clone()

    def off(self) -> AbstractContextManager[None]:
        """See `Trained.off`."""
        return self.parameters.wearing(self._pretrained)

    def save(self, folder: Path, pipeline: type[Pipeline], name: str) -> None:
        """Writes a folder for the network's own from_pretrained; see `Trained.save`."""
        self.network.save_pretrained(folder)
        forget_places(folder)
