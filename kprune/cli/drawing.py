"""Tokenised examples, drawn from texts until a budget of tokens is full."""

import random
from collections.abc import Sequence
from typing import Any

from kprune.cli.texts import Texts
from kprune.data import Example
from kprune.errors import UserError

LONGEST = 512
"""Tokens that a text is cut at if nothing is asked for; attention's cost grows with the square."""
CHUNK = 256
HELD_OUT = 10
"""Every tenth text is held out."""


def cut_at(max_length: int | None, longest: int, tokenizer: Any, pairs: bool) -> int:
    """Return the number of tokens to cut a text at.

    Args:
        max_length: as asked for.
        longest: what the model reads at most.

    Raises:
        UserError: it is more than the model reads, or leaves no room for a text.
    """
    most = min(longest, tokenizer.model_max_length)
    length = min(most, LONGEST) if max_length is None else max_length
    if length > most:
        raise UserError(f"--max-length {length} is more than the model reads: give at most {most}")
    special = tokenizer.num_special_tokens_to_add(pair=pairs)
    if length <= special:
        raise UserError(f"--max-length {length} leaves no room beside the {special} tokens that mark a text: raise it")
    return length


def draw(texts: Texts, tokenizer: Any, token_types: bool, max_length: int, tokens: int, seed: int) -> list[Example]:
    """Tokenise different texts in random order until there are so many tokens, or no text is left.

    Args:
        token_types: the model reads which text of a pair a token is of.
        tokens: the last text drawn reaches or exceeds it.

    Returns:
        examples that have their `texts`, too.
    """
    different = list(dict.fromkeys(texts.rows))
    random.Random(seed).shuffle(different)
    examples: list[Example] = []
    total = 0
    for start in range(0, len(different), CHUNK):
        chunk = different[start : start + CHUNK]
        for example in tokenised(chunk, tokenizer, token_types, max_length):
            if total >= tokens:
                return examples
            if example["input_ids"]:
                examples.append(example)
                total += len(example["input_ids"])
    return examples


def tokenised(texts: Sequence[tuple[str, ...]], tokenizer: Any, token_types: bool, max_length: int) -> list[Example]:
    """Return an example of each text or pair; arguments as `draw` has them."""
    encoded = tokenizer(*map(list, zip(*texts, strict=True)), truncation=True, max_length=max_length)
    keys = ["input_ids", *(["token_type_ids"] if token_types and "token_type_ids" in encoded else [])]
    return [{key: encoded[key][row] for key in keys} | {"texts": text} for row, text in enumerate(texts)]


def held_out(examples: list[Example], tokens: int) -> tuple[list[Example], list[Example]]:
    """Return nine tenths of examples to prune on, and one tenth to measure on.

    Args:
        tokens: the budget that they were drawn with.

    Raises:
        UserError: there are fewer than two.
    """
    if len(examples) < 2:
        raise UserError(
            f"{len(examples)} different text within --tokens {tokens} is too few: one is held out to measure on; give more"
        )
    return [example for index, example in enumerate(examples) if index % HELD_OUT], examples[::HELD_OUT]
