"""A CLIPTokenizer in which every caption word is one token, and every other string still tokenizes.

The vocabulary is the byte alphabet (plain and word-final) plus merges that build the caption words.
"""

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from experiments.tiny_model.vocabulary import every_caption

MAX_LENGTH = 16


def merge_pieces(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of one word: apply each merge, best rank first."""
    for left, right in merges:
        i = 0
        while i + 1 < len(pieces):
            if (pieces[i], pieces[i + 1]) == (left, right):
                pieces[i : i + 2] = [left + right]
            i += 1
    return pieces


def merges_for(words: list[str]) -> list[tuple[str, str]]:
    """Merges under which each word is one piece. Later merges never disturb the words before them."""
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = merge_pieces([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
    return merges


def build() -> CLIPTokenizer:
    words = sorted({word for caption in every_caption() for word in str(caption).split()})
    alphabet = sorted(ByteLevel.alphabet())
    merges = merges_for(words)
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    tokens += [left + right for left, right in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, f"{word!r} is not one token"
    return tokenizer
