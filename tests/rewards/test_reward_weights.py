"""Files of weights: from addresses, checked by their content; and broken ones."""

import hashlib
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import save

from raypref.rewards.aesthetic import HEAD_URL
from raypref.rewards.weights import local_file, read_state

GOOD, OTHER = save({"a": torch.ones(2)}), save({"a": torch.zeros(2)})
SERVED = {"https://one.org/a/head%2B1.safetensors": GOOD, "https://two.org/head%2B1.safetensors": OTHER}
ONE, TWO = SERVED


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> list[str]:
    """A cache of torch's, and a network of two files."""
    asked: list[str] = []

    def download(url: str, to: str, progress: bool) -> None:
        asked.append(url)
        Path(to).write_bytes(SERVED[url])

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def test_an_address_is_downloaded_once_and_is_not_another_of_the_same_last_name(downloads):
    for _ in range(2):
        assert read_state("head", ONE)["a"].tolist() == [1, 1]
        assert read_state("head", TWO)["a"].tolist() == [0, 0]
    assert downloads == [ONE, TWO]


def test_a_download_is_the_file_that_was_promised(downloads):
    promise = f"#sha256={hashlib.sha256(GOOD).hexdigest()}"
    assert read_state("head", ONE + promise)["a"].tolist() == [1, 1]
    with pytest.raises(
        ValueError, match=r"reward\.head = 'https://two\.org.*another file than the published one .*delete"
    ):
        read_state("head", TWO + promise)
    local_file("head", ONE + promise).write_bytes(OTHER)  # on the disk too
    with pytest.raises(ValueError, match="another file than the published one"):
        read_state("head", ONE + promise)


def test_the_aesthetic_head_is_pinned_to_a_commit_and_a_content():
    address, _, digest = HEAD_URL.partition("#sha256=")
    assert len(digest) == 64
    assert len(address.split("/raw/")[1].split("/")[0]) == 40
    assert unquote(address).endswith("/sac+logos+ava1-l14-linearMSE.pth")


def test_a_file_that_is_cut_short_or_holds_no_state_is_one_clear_error(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(GOOD[:-4])
    with pytest.raises(ValueError, match=r"reward\.head = .*cut\.safetensors is no whole \.safetensors file"):
        read_state("head", str(tmp_path / "cut.safetensors"))
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"reward\.head = .*no file of tensors"):
        read_state("head", str(tmp_path / "list.pt"))


def test_where_the_hub_cannot_be_asked_no_download_is_tried(monkeypatch):
    def no_network(*words: object, **settings: object) -> None:
        raise RuntimeError("name or service not known")  # the Hub's client stands on a library with errors of its own

    def download(*words: object) -> None:
        pytest.fail("a minute of retries")

    monkeypatch.setattr("raypref.rewards.weights.HfApi.model_info", no_network)
    monkeypatch.setattr("raypref.rewards.weights.hf_hub_download", download)
    with pytest.raises(
        OSError, match=r"reward\.head = 'owner/name/head\.pt': neither here nor .*`hf download owner/name"
    ):
        local_file("head", "owner/name/head.pt")
