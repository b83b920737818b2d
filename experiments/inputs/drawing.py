"""Calibration examples drawn from running texts, as in the codes of SparseGPT and Wanda."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.inputs.texts import Texts
from kprune.data import CalibrationSet
from kprune.errors import UserError

Draw = Literal["windows", "documents", "running text"]
CHUNK = 256
"""Number of documents that are tokenised together."""


@dataclass(frozen=True)
class DrawnTexts(CalibrationSet):
    """A calibration set drawn from texts, and its origin.

    Attributes:
        data: the name of the texts.
        texts: number of documents that were drawn from.
        window: largest number of tokens in an example.
        draw: the kind of an example: a window inside a longer document ("windows"), a document that is cut to the window
            ("documents"), or a window at a random place of the only document ("running text").
    """

    data: str = ""
    texts: int = 0
    window: int = 0
    draw: Draw = "windows"


@dataclass(frozen=True)
class Amount:
    """The amount of examples to draw: `examples` of them or, if it is None, as many as have at most `tokens` tokens in all."""

    examples: int | None
    tokens: float

    def taken(self, lengths: list[int]) -> int | None:
        """Return how many of the examples with these lengths are taken, counted from the first; None if the amount needs more."""
        if self.examples is not None:
            return self.examples if len(lengths) >= self.examples else None
        ends = np.cumsum(lengths)
        return int((ends <= self.tokens).sum()) if len(ends) and ends[-1] > self.tokens else None


@dataclass(frozen=True)
class Around:
    """The ids of the special tokens before each example and behind it."""

    before: Sequence[int] = ()
    behind: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.behind)

    def put(self, ids: Sequence[int]) -> list[int]:
        """Return the token ids of a text between the special tokens."""
        return [*self.before, *ids, *self.behind]


def draw_texts(
    texts: Texts, tokenizer: Any, window: int, amount: Amount, seed: int, around: Around | None = None
) -> tuple[list[list[int]], Draw]:
    """Return token sequences drawn from texts, and the kind of draw (see `DrawnTexts`).

    Documents are taken in a random order, each once. From each document that is longer than a window, a window at a random place
    is drawn, as in SparseGPT and Wanda. If these documents are too few, all documents are taken instead, in the same order and cut
    to the window. If there is only one document, windows at random places of it are drawn, which may overlap, as in SparseGPT's
    draw from WikiText-2.

    Args:
        texts: the documents.
        window: number of tokens in an example, including the special tokens around it.
        amount: the amount of examples.
        around: the special tokens around each example; None lets the tokenizer add special tokens to each document before windows
            are cut.

    Raises:
        UserError: the only document is shorter than a window, no document has two tokens, or the amount is less than one example.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(texts.documents))
    special, around = around is None, around or Around()
    room = window - len(around)
    windows, whole = [], []
    if len(order) == 1:
        (ids,) = _tokenised(texts, tokenizer, order, special)
        return _of_one(texts, ids, window, amount, random, around), "running text"
    for ids in _tokenised(texts, tokenizer, order, special):
        if len(ids) > room:
            windows.append(around.put(_window(ids, room, random)))
            if (count := amount.taken(list(map(len, windows)))) is not None:
                return _some(windows[:count], texts, window, amount), "windows"
        if len(ids) > 1:
            whole.append(around.put(ids[:room]))
    count = amount.taken(list(map(len, whole)))
    return _some(whole if count is None else whole[:count], texts, window, amount), "documents"


def _of_one(
    texts: Texts, ids: list[int], window: int, amount: Amount, random: np.random.Generator, around: Around
) -> list[list[int]]:
    room = window - len(around)
    if len(ids) < room:
        raise UserError(
            f"{texts.source} is one text of {len(ids)} tokens, less than a window of {window}: give more text, documents as "
            "JSON lines, or a smaller task.window"
        )
    count = amount.examples if amount.examples is not None else int(amount.tokens // window)
    return _some([around.put(_window(ids, room, random)) for _ in range(count)], texts, window, amount)


def _window(ids: list[int], window: int, random: np.random.Generator) -> list[int]:
    start = int(random.integers(len(ids) - window + 1))
    return ids[start : start + window]


def _some(drawn: list[list[int]], texts: Texts, window: int, amount: Amount) -> list[list[int]]:
    if not drawn and amount.examples is None:
        raise UserError(
            f"calibration.tokens={amount.tokens:g} is less than one example of {texts.source}, of up to {window} tokens: "
            "raise it"
        )
    if not drawn:
        raise UserError(f"{texts.source} has no text of two tokens: give other calibration.data")
    return drawn


def _tokenised(texts: Texts, tokenizer: Any, order: np.ndarray, special: bool) -> Iterator[list[int]]:
    for start in range(0, len(order), CHUNK):
        chunk = [texts.documents[row] for row in order[start : start + CHUNK]]
        yield from tokenizer(chunk, verbose=False, add_special_tokens=special)["input_ids"]
