"""Published weights: found on disk or on the hub, read without running code, and put into a network key by key."""

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import unquote

import torch
from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

# Loading chatter would bury the progress of a run.
logging.set_verbosity_error()
logging.disable_progress_bar()

Network = TypeVar("Network", bound=nn.Module)
Pretrained = TypeVar("Pretrained", bound=PreTrainedModel)
State = Mapping[str, Tensor]

Dtype = Literal["float32", "bfloat16", "float16"]
"""Precision of a reward's network. Features are compared, and heads computed, in float32 or better."""


def chosen_device(device: str) -> torch.device:
    """The torch device of that name; auto is cuda where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


@contextmanager
def explained(field: str, source: str, command: str) -> Iterator[None]:
    """Turns whatever the hub or the disk says into one OSError that names the setting and the way out."""
    try:
        yield
    except (OSError, ValueError) as problem:
        said = " ".join(str(problem).split())[:200]
        raise OSError(
            f"reward.{field} = {source!r}: neither here nor to be downloaded; run `{command}` where there is network, "
            f"or name a local path ({type(problem).__name__}: {said})"
        ) from problem


def read_state(field: str, source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by key, on the CPU. Files are mapped into memory, not read at once.

    Args:
        field: the setting that named the source, for messages.
        source: a local file, a file on the hub as "owner/name/file", or a URL, which may end in "#sha256=..." of what
            is there; .safetensors, or pickled tensors.

    Raises:
        OSError: where it can be neither found nor downloaded.
        ValueError: where it holds anything but tensors: no other object is unpickled.
    """
    path = local_file(field, source)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as problem:
            raise ValueError(f"reward.{field} = {source!r}: {path} is no whole .safetensors file ({problem})") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        state = state.get("state_dict", state)  # where training checkpoints keep it
    except Exception as problem:  # every kind of broken or unsafe file has an error of its own
        said = " ".join(str(problem).split())[:200]
        raise ValueError(
            f"reward.{field} = {source!r}: no file of tensors, and nothing else is unpickled; save its state_dict "
            f"with torch.save or safetensors and name that file ({said})"
        ) from None
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def local_file(field: str, source: str) -> Path:
    """The file that a setting names, see `read_state`; downloaded where it is not here.

    Raises:
        OSError: where it can be neither found nor downloaded.
    """
    if Path(source).is_file():
        return Path(source)
    if source.startswith("https://"):
        return _downloaded(field, source)
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if not file or source.startswith((".", "/")):
        raise OSError(
            f"reward.{field} = {source!r}: no such file; name a local file, or one on the hub as owner/name/file"
        )
    with explained(field, source, f"hf download {owner}/{name} {file}"):
        if not isinstance(try_to_load_from_cache(f"{owner}/{name}", file), str):
            _ask_hub(f"{owner}/{name}")
        return Path(hf_hub_download(f"{owner}/{name}", file))


def _ask_hub(name: str) -> None:
    """Asks once whether a repository can be had: where there is no network, a download would be tried for a minute and
    fill the log.

    Raises:
        OSError: where it cannot.
    """
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as problem:  # every version of the Hub's client, and of what it stands on, has errors of its own
        raise OSError(f"{type(problem).__name__}: {problem}") from problem


def _downloaded(field: str, source: str) -> Path:
    """The file of a URL, in torch's cache, under a name that no other URL has.

    Raises:
        OSError: where it cannot be downloaded.
        ValueError: where it is not the one that the URL's "#sha256=..." promises.
    """
    url, _, promised = source.partition("#sha256=")
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{unquote(url.rpartition('/')[2])}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with explained(field, url, f"curl -L -o {path} {url}"):
            torch.hub.download_url_to_file(url, str(path), progress=False)
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if promised and found != promised:
        raise ValueError(
            f"reward.{field} = {url!r}: {path} is another file than the published one (its sha256 is {found}, not "
            f"{promised}); delete it, and it is downloaded again"
        )
    return path


def filled(build: Callable[[], Network], state: State, field: str, device: str, dtype: Dtype) -> Network:
    """A frozen network with exactly the weights of `state`.

    `build` runs without memory for weights, and the network takes over the tensors of `state`: a gigabyte is loaded
    once, and never initialised for nothing.

    Raises:
        ValueError: where a key is missing, unknown, or of another shape.
    """
    with torch.device("meta"):
        network = build()
    try:
        network.load_state_dict({key: state[key] for key in state if not key.endswith("position_ids")}, assign=True)
    except RuntimeError as problem:
        said = " ".join(str(problem).split())[:600]
        raise ValueError(f"reward.{field}: its tensors are not those of the published layout: {said}") from None
    _number_positions(network)
    return frozen(network, device, dtype)


def pretrained(kind: type[Pretrained], field: str, source: str, device: str, dtype: Dtype) -> Pretrained:
    """A frozen network of a hub id or folder in transformers' layout; weights of other networks in it are ignored.

    Raises:
        OSError: where it can be neither found nor downloaded.
        ValueError: where one of the network's weights is missing or of another shape.
    """
    with explained(field, source, f"hf download {source}"):
        network, found = kind.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    misfits = (key if isinstance(key, str) else key[0] for key in found["mismatched_keys"])
    lacking = sorted({*found["missing_keys"], *misfits})
    if lacking:
        raise ValueError(
            f"reward.{field} = {source!r}: it has no fitting {', '.join(lacking[:5])} and so is no {kind.__name__}; "
            "name a complete model"
        )
    return frozen(network, device, dtype)


def frozen(network: Network, device: str, dtype: Dtype) -> Network:
    """The network on its device, in its precision, for evaluation, without gradients for its weights."""
    return network.to(chosen_device(device), getattr(torch, dtype)).eval().requires_grad_(False)


def _number_positions(network: nn.Module) -> None:
    """0, 1, 2, ... where transformers keeps them: buffers, which no checkpoint needs to hold."""
    for name, buffer in list(network.named_buffers()):
        if name.endswith("position_ids"):
            module = network.get_submodule(name.rpartition(".")[0])
            module.register_buffer("position_ids", torch.arange(buffer.shape[-1])[None], persistent=False)
