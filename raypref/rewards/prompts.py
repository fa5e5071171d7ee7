"""Prompts as the rewards' networks see them: tokenizers that are really there, and features computed once a prompt."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from raypref.rewards.weights import explained

TOKENIZER_FILES = (
    "config.json tokenizer.json tokenizer_config.json special_tokens_map.json vocab.json vocab.txt merges.txt"
)
"""Those of any of the tokenizers, for `hf download`: patterns after --include would not go together with names."""
REMEMBERED = 1024
"""Prompts whose features are kept; MPS's, the largest, are 0.3 MB each."""


def load_tokenizer(source: str, words: int, field: str = "tokenizer") -> PreTrainedTokenizerBase:
    """A tokenizer of `words` words from a hub id or folder.

    Raises:
        OSError: where it can be neither found nor downloaded.
        ValueError: where it has another number of words. transformers may return an empty tokenizer for files that it
            does not find: every prompt would then be the same, and no error would ever say so.
    """
    with explained(field, source, f"hf download {source} {TOKENIZER_FILES}"):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if len(tokenizer) != words:
        raise ValueError(
            f"reward.{field} = {source!r}: a tokenizer of {len(tokenizer)} words, but the network was trained on "
            f"{words}; its files are missing or another model's. Name the folder or hub id of the network's own"
        )
    return tokenizer


class PromptFeatures:
    """Remembers what `encode` says of a prompt.

    One prompt at a time: sums in a batch may round otherwise, and what a prompt scores must not depend on which other
    prompts were new.
    """

    def __init__(self, encode: Callable[[str], tuple[Tensor, ...]]) -> None:
        self._encode = encode
        self._known: dict[str, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """Each of the features, for every prompt: [B ...]."""
        return tuple(torch.stack(parts) for parts in zip(*map(self._of, prompts), strict=True))

    def _of(self, prompt: str) -> tuple[Tensor, ...]:
        if prompt not in self._known:
            while len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[prompt] = self._encode(prompt)
        return self._known[prompt]
