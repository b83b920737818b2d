"""Texts that are longer than what a model reads, cut before they are tokenised."""

from collections.abc import Sequence
from typing import Any


def token_ends(tokenizer: Any, text: str) -> list[int]:
    """Return where in a text each of its tokens ends, without special tokens."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [end for _, end in encoded["offset_mapping"]]


def shortened(tokenizer: Any, text: str, tokens: int) -> str:
    """Cut a text behind its first `tokens` tokens; a text of at most as many characters is returned as it is.

    A tokenizer in Rust that cuts a pair of texts to one length makes every combination of their rests: gigabytes for two books. A
    tokenizer in Python does not, and can't say where tokens end: for it, every text is returned as it is.
    """
    if len(text) <= tokens or not tokenizer.is_fast:
        return text
    ends = token_ends(tokenizer, text)
    return text if len(ends) <= tokens else text[: ends[tokens - 1]]


def shortened_columns(tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int) -> list[list[str]]:
    """Return columns of texts that a tokenizer can cut to `max_length` tokens a row: two columns `shortened`, one as it is.

    Twice as many tokens stay as are read, since a word that is cut ends in other tokens.
    """
    if len(columns) == 1:
        return [list(columns[0])]
    return [[shortened(tokenizer, text, 2 * max_length) for text in column] for column in columns]


def choice_pairs(
    tokenizer: Any, texts: Sequence[str], choices: Sequence[str], max_length: int
) -> list[tuple[str, str]]:
    """Return the pair that a model reads for each choice: the first text; and the choice, behind the second text if there is one.

    If a pair is too long, the texts before the choice are cut, the longer one first, and the choice is read whole. If the choice is
    too long by itself, the tokenizer cuts the longer half of the pair.

    Args:
        texts: a question; or a context and a question.
        max_length: tokens of a pair, special tokens counted.
    """
    first, *rest = texts
    pairs = [(first, " ".join([*rest, choice])) for choice in choices]
    encoded = tokenizer(*map(list, zip(*pairs, strict=True)), return_attention_mask=False, verbose=False)
    if not tokenizer.is_fast or max(map(len, encoded["input_ids"])) <= max_length:
        return pairs
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    before = [(text, token_ends(tokenizer, text)) for text in texts]
    fitted = []
    for pair, choice in zip(pairs, choices, strict=True):
        left = room - len(token_ends(tokenizer, choice))
        if left > 0:
            first, *rest = _cut(before, left)
            pair = (first, " ".join([*filter(None, rest), choice]))
        fitted.append((shortened(tokenizer, pair[0], 2 * max_length), shortened(tokenizer, pair[1], 2 * max_length)))
    return fitted


def _cut(texts: Sequence[tuple[str, Sequence[int]]], tokens: int) -> list[str]:
    """Return one text or two of so many tokens together, the longer one cut first; each comes with where its tokens end."""
    first, *rest = (len(ends) for _, ends in texts)
    if first + sum(rest) > tokens:
        first = min(first, max(tokens - sum(rest), (tokens + 1) // 2))
        rest = [tokens - first for _ in rest]
    sizes = zip(texts, [first, *rest], strict=True)
    return [text if size == len(ends) else text[: ends[size - 1] if size else 0] for (text, ends), size in sizes]
