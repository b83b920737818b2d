"""The tokens that texts use, as the vocabulary of a smaller model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kprune.errors import UserError
from kprune.models.families import family_of
from kprune.types import Model
from kprune.vocabulary import tokenizer as fast
from kprune.vocabulary.weights import named_tokens, word_rows

Text = str | Sequence[int] | Tensor
"""A text, or its tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a model is to keep.

    Attributes:
        kept: numbers of the kept tokens in the whole vocabulary, in the order of their new numbers.
        of: rows of the whole vocabulary.
        whole, tokenizer: the tokenizers of all tokens and of those that are kept.
    """

    kept: Sequence[int]
    of: int
    whole: Any
    tokenizer: Any


def vocabulary_of(model: Model, tokenizer: Any, texts: Iterable[Text]) -> Vocabulary:
    """Return the vocabulary of the tokens that texts use, and of those by which any other text is spelled.

    Raises:
        UserError: there is no text, or a vocabulary can't be cut for this model and this tokenizer.
    """
    core, rows = fast.core_of(tokenizer), word_rows(model)
    _check_tokenizer(model, tokenizer, core, rows)
    texts = list(texts) if not isinstance(texts, str) else [texts]
    used = _used(tokenizer, texts, rows)
    needed = fast.spelling_tokens(core) | set(tokenizer.all_special_ids) | named_tokens(model)
    padding = model.config.pad_token_id
    if family_of(model).positions_after_padding and padding is not None:
        needed |= set(range(padding + 1))  # positions count from its number, which has to stay
    kept = fast.in_order(core, fast.with_parts(core, used | needed))
    new = {old: number for number, old in enumerate(kept)}
    if family_of(model).positions_after_padding and padding is not None and new[padding] != padding:
        raise UserError(f"the model's positions count from its padding token, {padding}, which can't keep that number")
    small = fast.rebuilt(tokenizer, fast.cut(core, new), new)
    _check_same(tokenizer, small, [text for text in texts if isinstance(text, str)], new)
    return Vocabulary(kept, rows, tokenizer, small)


def _used(tokenizer: Any, texts: Sequence[Text], rows: int) -> set[int]:
    """Return the tokens that texts use.

    Raises:
        UserError: there is none, or one that is not in the vocabulary.
    """
    words = [text for text in texts if isinstance(text, str)]
    if any(word.strip() for word in words) != bool(words):
        raise UserError("the texts for the vocabulary are blank: give some with words")
    given = [text.tolist() if isinstance(text, Tensor) else list(text) for text in texts if not isinstance(text, str)]
    used = {token for ids in (*fast.ids_of(tokenizer, words), *given) for token in ids}
    if not used:
        raise UserError("there is no text for the vocabulary: give texts, or lists of token numbers")
    wrong = [token for token in used if not isinstance(token, int) or not 0 <= token < rows]
    if wrong:
        raise UserError(
            f"the texts for the vocabulary have the token {wrong[0]!r}, and the model has {rows:,}: mend them"
        )
    return used


def _check_tokenizer(model: Model, tokenizer: Any, core: dict[str, Any], rows: int) -> None:
    """Check that a tokenizer is the model's own, as far as the numbers of their tokens tell.

    Raises:
        UserError: it is not.
    """
    added = {token["id"]: token["content"] for token in core["added_tokens"]}
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    for number, token in beyond:
        if number in added and len(fast.tokens_of(core)) <= rows:
            raise UserError(
                f"{token!r} was added to the tokenizer as token {number}, and the model has {rows:,}: give it a row "
                "(model.resize_token_embeddings(len(tokenizer))), or take the tokenizer as it was trained with"
            )
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model {rows:,}: give the model's own tokenizer"
        )
    padding = model.config.pad_token_id
    if None not in (padding, tokenizer.pad_token_id) and padding != tokenizer.pad_token_id:
        raise UserError(
            f"the tokenizer pads with token {tokenizer.pad_token_id}, the model's config has pad_token_id={padding}: give the "
            "model's own tokenizer, or set one of the two"
        )


def _check_same(whole: Any, small: Any, texts: Sequence[str], new: dict[int, int]) -> None:
    """Check that texts are split as before.

    Raises:
        UserError: one is not.
    """
    for text, was, now in zip(texts, fast.ids_of(whole, texts), fast.ids_of(small, texts), strict=True):
        if [new[token] for token in was] != now:
            raise UserError(
                f"the tokenizer splits {text[:60]!r} otherwise with fewer tokens: keep its vocabulary whole"
            )
