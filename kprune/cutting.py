"""Texts that are longer than what a model reads, cut before they are tokenised."""

from collections.abc import Sequence
from typing import Any


def token_ends(tokenizer: Any, text: str) -> list[int]:
    """Return where in a text each of its tokens ends, without special tokens."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [end for _, end in encoded["offset_mapping"]]


def shortened(tokenizer: Any, text: str, tokens: int) -> str:
    """Return a text of more than so many characters without what stands behind so many tokens.

    A tokenizer in Rust that cuts two texts to one length makes every combination of their rests: of two books, gigabytes. One
    in Python does not, and does not say where tokens end.
    """
    if len(text) <= tokens or not tokenizer.is_fast:
        return text
    ends = token_ends(tokenizer, text)
    return text if len(ends) <= tokens else text[: ends[tokens - 1]]


def shortened_columns(tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int) -> list[list[str]]:
    """Return columns of texts that a tokenizer can cut to `max_length` tokens a row: those of pairs `shortened`, one as it is.

    Twice as many tokens stay as are read, since a word that is cut ends in other tokens.
    """
    if len(columns) == 1:
        return [list(columns[0])]
    return [[shortened(tokenizer, text, 2 * max_length) for text in column] for column in columns]
