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
"""Documents handed to the tokenizer at once."""


@dataclass(frozen=True)
class DrawnTexts(CalibrationSet):
    """A calibration set, and where it comes from.

    Attributes:
        data: names the texts.
        texts: how many documents there were to draw from.
        window: tokens of the longest example.
        draw: what an example is: a window inside a longer document ("windows"), a document, cut to the window
            ("documents"), or a window at a random place of the one text there is ("running text").
    """

    data: str = ""
    texts: int = 0
    window: int = 0
    draw: Draw = "windows"


@dataclass(frozen=True)
class Amount:
    """How many examples are wanted: a number of them, else those of at most so many tokens."""

    examples: int | None
    tokens: float

    def taken(self, lengths: list[int]) -> int | None:
        """Return how many of examples of these lengths are taken; None if there could be more."""
        if self.examples is not None:
            return self.examples if len(lengths) >= self.examples else None
        ends = np.cumsum(lengths)
        return int((ends <= self.tokens).sum()) if len(ends) and ends[-1] > self.tokens else None


@dataclass(frozen=True)
class Around:
    """Special tokens that stand before each example, and behind it."""

    before: Sequence[int] = ()
    behind: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.behind)

    def put(self, ids: Sequence[int]) -> list[int]:
        """Return an example of these tokens of a text."""
        return [*self.before, *ids, *self.behind]


def draw_texts(
    texts: Texts, tokenizer: Any, window: int, amount: Amount, seed: int, around: Around | None = None
) -> tuple[list[list[int]], Draw]:
    """Draw token sequences: a window at a random place of each document that is longer than it, as SparseGPT and Wanda do.

    Documents come in a random order, each once. If fewer than are wanted are longer than a window, whole documents are
    taken instead, in the same order, cut to the window. Of one text alone, windows lie at random places, as in SparseGPT's
    draw of WikiText-2, and may overlap.

    Args:
        window: tokens of an example, those around it included.
        around: what stands around each example; None: the tokenizer puts its special tokens around each document.

    Raises:
        UserError: the one text is shorter than a window, no document has two tokens, or not even one example is wanted.
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
