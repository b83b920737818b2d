"""Tokenised examples, and the batches that are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from kprune.errors import UserError
from kprune.objectives.base import IGNORED

OF_EXAMPLES = ("labels", "choices")
"""Entries of a batch that are per example, not per row."""
Example = dict[str, Any]
"""One tokenised example: `input_ids` and, if the model reads them, `token_type_ids` (lists of int, unpadded), and
`label` (int, float, (start, end) for spans, or a list with a number for each token or output) if labels are handed out.

An example of several choices has the tokens of all, one choice behind the other, and `choices`, how many each has."""


def sequences(example: Example) -> list[Example]:
    """Return what a model reads of an example, one text after the other: each of its choices, or itself."""
    if "choices" not in example:
        return [example]
    ends = list(accumulate(example["choices"]))
    pairs = list(zip([0, *ends], ends, strict=False))
    names = [name for name in ("input_ids", "token_type_ids") if name in example]
    return [{name: example[name][start:end] for name in names} for start, end in pairs]


def has_label(example: Example) -> bool:
    """Tell whether a token of an example has a label."""
    return any(label != IGNORED for label in example["label"])


def lengths(example: Example) -> list[int]:
    """Return the number of tokens of each of an example's `sequences`."""
    return example.get("choices") or [len(example["input_ids"])]


def mean_length(examples: Sequence[Example]) -> float:
    """Return the mean number of tokens of a sequence."""
    every = [length for example in examples for length in lengths(example)]
    return sum(every) / len(every)


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """Pad examples on the right to the longest of them.

    Returns:
        tensors [B, T] `input_ids`, `attention_mask` and, if the examples have them, `token_type_ids`; and `labels` [B] or [B, k] if
        the examples carry a label; labels of tokens are -100 at padding. If examples have choices, there is a row for each choice,
        [R, T], and `choices` [B] says how many rows each example has.
    """
    rows = [row for example in examples for row in sequences(example)]
    length = max(len(row["input_ids"]) for row in rows)
    batch = {}
    for key, filler in (("input_ids", pad_token_id), ("token_type_ids", 0)):
        if key in rows[0]:
            batch[key] = torch.tensor([list(row[key]) + [filler] * (length - len(row[key])) for row in rows])
    ends = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(length) < ends[:, None]).long()
    if "choices" in examples[0]:
        batch["choices"] = torch.tensor([len(example["choices"]) for example in examples])
    if "label" in examples[0]:
        labels = [example["label"] for example in examples]
        if isinstance(labels[0], Sequence):
            most = max(map(len, labels))  # of tokens; others are as many in every example
            labels = [[*label, *[IGNORED] * (most - len(label))] for label in labels]
        batch["labels"] = torch.tensor(labels)
    return batch


def size_of(batch: dict[str, Tensor]) -> int:
    """Return the number of examples in a batch."""
    return len(batch.get("choices", batch["input_ids"]))


def rows_of(batch: dict[str, Tensor], which: slice) -> slice | Tensor:
    """Return the rows of some of a batch's examples, as a slice or, if examples have choices, as the rows' numbers."""
    if "choices" not in batch:
        return which
    chosen = torch.zeros_like(batch["choices"], dtype=torch.bool)
    chosen[which] = True
    return chosen.repeat_interleave(batch["choices"]).nonzero()[:, 0]


def part_of(batch: dict[str, Tensor], which: slice) -> dict[str, Tensor]:
    """Return some of a batch's examples."""
    rows = rows_of(batch, which)
    return {name: value[which if name in OF_EXAMPLES else rows] for name, value in batch.items()}


def per_example(values: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return values [B, ...] of a batch's examples: those of its rows [R, ...] or, of examples with choices, their sums."""
    if "choices" not in batch:
        return values
    # One by one, since a GPU adds up by index in any order, and the same seed gives the same units.
    return torch.stack([own.sum(dim=0) for own in values.split(batch["choices"].tolist())])


def by_length_and_tokens(example: Example) -> tuple[int, list[int], list[int]]:
    """Return the key by which `CalibrationSet.steps` sorts an example."""
    return max(lengths(example)), list(example["input_ids"]), list(example.get("token_type_ids", ()))


@dataclass(frozen=True)
class CalibrationSet:
    """Tokenised examples from the training set, in the order drawn. Labels are withheld unless a method needs them."""

    examples: Sequence[Example]
    batch_size: int
    pad_token_id: int

    def __post_init__(self) -> None:
        if not self.examples:
            raise UserError("the calibration set is empty: give more examples")
        if any(0 in lengths(example) for example in self.examples):
            raise UserError("the calibration set has an example without tokens: remove it from the data")

    @property
    def tokens(self) -> int:
        """Return the number of tokens of all examples."""
        return sum(len(example["input_ids"]) for example in self.examples)

    @property
    def sequence_length(self) -> float:
        """Return the mean number of tokens of what the model reads at once: an example, or one of its choices."""
        return mean_length(self.examples)

    def batches(self, by_length: bool = True) -> list[dict[str, Tensor]]:
        """Return padded batches on the CPU; sorted by length, so that little is padded, or in the order drawn."""
        examples = list(self.examples)
        if by_length:
            examples.sort(key=lambda example: max(lengths(example)))
        starts = range(0, len(examples), self.batch_size)
        return [collate(examples[start : start + self.batch_size], self.pad_token_id) for start in starts]

    def steps(self, tokens: int) -> list[dict[str, Tensor]]:
        """Return padded batches of at most so many tokens, padding counted, of one example at least; `batch_size` is not read.

        Examples are sorted by length, then by their tokens, so that it does not matter in which order they were drawn.
        """
        batches: list[list[Example]] = [[]]
        rows = 0
        for example in sorted(self.examples, key=by_length_and_tokens):
            own = lengths(example)
            rows += len(own)
            if batches[-1] and max(own) * rows > tokens:
                batches.append([])
                rows = len(own)
            batches[-1].append(example)
        return [collate(batch, self.pad_token_id) for batch in batches]


def split(calibration: CalibrationSet, every: int = 10) -> tuple[CalibrationSet, CalibrationSet]:
    """Return the calibration set in two: the examples to fit on, and those held out, one in `every` of the distinct ones.

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
            "this method chooses on held-out examples, and there is only one example: give more, or a method without a choice "
            "(K-prune with one λ, lambdas=[0.1], or K-prune+ without a search)"
        )
    fit, held_out = sides
    return replace(calibration, examples=fit), replace(calibration, examples=held_out)
