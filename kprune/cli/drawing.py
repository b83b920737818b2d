"""Tokenised examples, drawn from texts until a budget of tokens is full."""

import random
from collections.abc import Sequence
from typing import Any

from kprune.choices import as_examples
from kprune.cli.texts import Texts
from kprune.data import Example, has_label
from kprune.errors import UserError
from kprune.masked_tokens import mask_tokens
from kprune.objectives import Objective, Span
from kprune.truncation import choice_pairs, shortened_columns

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
        UserError: `max_length` is more than the model reads, or leaves no room for a text.
    """
    most = min(longest, tokenizer.model_max_length)
    length = min(most, LONGEST) if max_length is None else max_length
    if length > most:
        raise UserError(f"--max-length {length} is more than the model reads: give at most {most}")
    special = tokenizer.num_special_tokens_to_add(pair=pairs)
    if length <= special:
        raise UserError(f"--max-length {length} leaves no room beside the {special} tokens that mark a text: raise it")
    return length


def check_columns(texts: Texts, objective: Objective) -> None:
    """Check that texts are what a head answers: pairs for a span, lists of choices for multiple choice.

    Raises:
        UserError: they are not.
    """
    if len(texts.columns) != 2 and isinstance(objective, Span):
        raise UserError(
            f"the model answers questions on a context, and {texts.file} has no pairs: give a .csv or .jsonl file with "
            f"both, and --text-column question --second-column context"
        )
    if objective.of_choices and not texts.choices:
        raise UserError(
            f"the model chooses among answers, and {texts.file} has no lists of them: give a .jsonl file with both, and "
            "--text-column question --second-column choices"
        )
    if texts.choices and not objective.of_choices:
        raise UserError(
            f"{texts.file} has lists of choices in column {texts.columns[1]}, and the model reads none: choose other columns "
            "with --text-column and --second-column"
        )


def draw(texts: Texts, tokenizer: Any, token_types: bool, max_length: int, tokens: int, seed: int) -> list[Example]:
    """Tokenise different texts in random order until there are so many tokens, or no text is left.

    Args:
        token_types: the model reads which text of a pair a token is of.
        tokens: the number of tokens that the last text drawn reaches or exceeds.

    Returns:
        examples that have their `texts`, too.
    """
    different = list(dict.fromkeys(texts.rows))
    random.Random(seed).shuffle(different)
    examples: list[Example] = []
    total = 0
    for start in range(0, len(different), CHUNK):
        chunk = different[start : start + CHUNK]
        for example in tokenised(chunk, tokenizer, token_types, max_length, texts.choices):
            if total >= tokens:
                return examples
            if example["input_ids"]:
                examples.append(example)
                total += len(example["input_ids"])
    return examples


def tokenised(
    texts: Sequence[tuple[str, ...]], tokenizer: Any, token_types: bool, max_length: int, choices: bool = False
) -> list[Example]:
    """Return an example of each text, pair or text with its choices; arguments as `draw` has them."""
    if choices:
        pairs = [pair for first, *own in texts for pair in choice_pairs(tokenizer, [first], own, max_length)]
        rows = [
            {name: value for name, value in row.items() if name != "texts"}
            for row in tokenised(pairs, tokenizer, token_types, max_length)
        ]
        examples = as_examples(rows, [len(text) - 1 for text in texts])
        return [example | {"texts": text} for example, text in zip(examples, texts, strict=True)]
    columns = shortened_columns(tokenizer, list(zip(*texts, strict=True)), max_length)
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    keys = ["input_ids", *(["token_type_ids"] if token_types and "token_type_ids" in encoded else [])]
    return [{key: encoded[key][row] for key in keys} | {"texts": text} for row, text in enumerate(texts)]


def with_masks(examples: Sequence[Example], tokenizer: Any, texts: Texts) -> list[Example]:
    """Mask tokens of examples; examples without a token that can be masked are left out.

    Raises:
        UserError: no example is left.
    """
    answered = [example for example in (mask_tokens(example, tokenizer) for example in examples) if has_label(example)]
    if not answered:
        raise UserError(
            f"the tokenizer knows no word of the texts in {texts.file}, so there is none to mask: check file and tokenizer"
        )
    return answered


def held_out(examples: list[Example], tokens: int) -> tuple[list[Example], list[Example]]:
    """Return nine tenths of examples to prune on, and one tenth to measure on.

    Args:
        tokens: the budget that the examples were drawn with, for the message.

    Raises:
        UserError: there are fewer than two examples.
    """
    if len(examples) < 2:
        raise UserError(
            f"{len(examples)} different text within --tokens {tokens} is too few: one is held out to measure on; give more"
        )
    return [example for index, example in enumerate(examples) if index % HELD_OUT], examples[::HELD_OUT]
