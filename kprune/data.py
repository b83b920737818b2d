"""Tokenised examples, and the batches that are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kprune.errors import UserError
from kprune.objectives.base import IGNORED

Example = dict[str, Any]
"""One tokenised example: `input_ids` and, if the model reads them, `token_type_ids` (lists of int, unpadded), and
`label` (int, float, (start, end) for spans, or a list with a number for each token or output) if labels are handed out."""


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """Pad examples on the right to the longest of them.

    Returns tensors [B, T] `input_ids`, `attention_mask` and, if present, `token_type_ids`; `labels` [B] or [B, k]
    if the examples carry a label; those of tokens are -100 at padding.
    """
    length = max(len(example["input_ids"]) for example in examples)
    batch = {}
    for key, filler in (("input_ids", pad_token_id), ("token_type_ids", 0)):
        if key in examples[0]:
            batch[key] = torch.tensor([list(e[key]) + [filler] * (length - len(e[key])) for e in examples])
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch["attention_mask"] = (torch.arange(length) < lengths[:, None]).long()
    if "label" in examples[0]:
        labels = [example["label"] for example in examples]
        if isinstance(labels[0], Sequence):
            most = max(map(len, labels))  # of tokens; others are as many in every example
            labels = [[*label, *[IGNORED] * (most - len(label))] for label in labels]
        batch["labels"] = torch.tensor(labels)
    return batch


def by_length_and_tokens(example: Example) -> tuple[int, list[int], list[int]]:
    return len(example["input_ids"]), list(example["input_ids"]), list(example.get("token_type_ids", ()))


@dataclass(frozen=True)
class CalibrationSet:
    """Tokenised examples from the training set, in the order drawn. Labels are withheld unless a method needs them."""

    examples: Sequence[Example]
    batch_size: int
    pad_token_id: int

    def __post_init__(self) -> None:
        if not self.examples:
            raise UserError("the calibration set is empty: raise calibration.tokens or check calibration.file")
        if any(len(example["input_ids"]) == 0 for example in self.examples):
            raise UserError("the calibration set has an example without tokens: remove it from the data")

    @property
    def tokens(self) -> int:
        return sum(len(example["input_ids"]) for example in self.examples)

    def batches(self, by_length: bool = True) -> list[dict[str, Tensor]]:
        """Return padded batches on the CPU; sorted by length, so that little is padded, or in the order drawn."""
        examples = list(self.examples)
        if by_length:
            examples.sort(key=lambda example: len(example["input_ids"]))
        starts = range(0, len(examples), self.batch_size)
        return [collate(examples[start : start + self.batch_size], self.pad_token_id) for start in starts]

    def steps(self, tokens: int) -> list[dict[str, Tensor]]:
        """Return padded batches of at most so many tokens, padding counted, of one example at least, whatever `batch_size` is.

        In an order that is the examples' own, by length first, so that it does not matter in which they were drawn.
        """
        batches: list[list[Example]] = [[]]
        for example in sorted(self.examples, key=by_length_and_tokens):
            if batches[-1] and len(example["input_ids"]) * (len(batches[-1]) + 1) > tokens:
                batches.append([])
            batches[-1].append(example)
        return [collate(batch, self.pad_token_id) for batch in batches]


def split(calibration: CalibrationSet, every: int = 10) -> tuple[CalibrationSet, CalibrationSet]:
    """Return most of the different examples to fit, and one part held out: every tenth as drawn, or every so many-th.

    Examples are drawn with replacement; all copies of one fall on the same side.

    Raises:
        UserError: there is only one example.
    """
    numbers: dict[tuple[int, ...], int] = {}
    sides: tuple[list[Example], list[Example]] = [], []
    for example in calibration.examples:
        number = numbers.setdefault(tuple(example["input_ids"]), len(numbers))
        sides[number % every == 0].append(example)
    if len(numbers) == 1:
        raise UserError(
            "a choice is made on examples that are held out, and there is one example: give more, or leave nothing to choose "
            "(one λ as method.lambdas, kprune_plus without a search)"
        )
    fit, held_out = sides
    return replace(calibration, examples=fit), replace(calibration, examples=held_out)
