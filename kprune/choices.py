"""Batches of examples with several choices, [B, C, T], as the rows that a model reads, and the rows as examples again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kprune.data import Example
from kprune.errors import UserError

READ = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
SHAPE = "[examples, choices, length]"


def as_rows(number: int, batch: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Return a user's batch with a row for each choice, and how many choices each example has.

    Examples of one batch may have different numbers of choices: choices of padding alone, behind the others, are left out. If a
    batch is flat already, [R, T], its `choices` [B] says how many rows each example has, as `collate` does; without `choices`,
    there is one label for each example, and all examples have the same number of rows.

    Args:
        number: of the batch, for messages.
        batch: its `input_ids`, and its other entries that `READ` lists, are tensors.

    Raises:
        UserError: the batch does not have the shape of choices, a choice of padding alone stands before another choice, or an example
            has one choice or none.
    """
    if batch["input_ids"].ndim == 2 and isinstance(batch.get("choices"), Tensor):
        counts = [int(count) for count in batch["choices"].flatten()]
        if sum(counts) != len(batch["input_ids"]) or min(counts) < 1:
            raise UserError(
                f"batch {number}: choices are {counts}, and input_ids have {len(batch['input_ids'])} rows: give the number "
                "of choices of each example"
            )
        _check_counts(number, counts)
        return dict(batch), counts
    shape = _shape(number, batch)
    mask = batch.get("attention_mask")
    there = torch.ones(shape[:2], dtype=torch.bool)
    if mask is not None and mask.numel() == shape.numel():
        there = mask.reshape(shape).bool().any(dim=-1).cpu()
    counts = there.sum(dim=1).tolist()
    for row, (own, count) in enumerate(zip(there, counts, strict=True)):
        if count == 0:
            raise UserError(f"batch {number}, example {row} is padding alone: remove it from the data")
        if not own[:count].all():
            raise UserError(
                f"batch {number}, example {row} has a choice of padding alone before another: put it behind the others"
            )
    _check_counts(number, counts)
    rows = {name: _flat(number, name, value, shape, there) if name in READ else value for name, value in batch.items()}
    return rows, counts


def as_examples(rows: Sequence[Example], counts: Sequence[int]) -> list[Example]:
    """Return examples that join consecutive rows, as many rows each as `counts` says."""
    left = iter(rows)
    examples = []
    for count in counts:
        own = [next(left) for _ in range(count)]
        joined: Example = {name: [token for row in own for token in row[name]] for name in own[0]}
        examples.append(joined | {"choices": [len(row["input_ids"]) for row in own]})
    return examples


def _shape(number: int, batch: Mapping[str, Any]) -> torch.Size:
    """Return examples, choices and length of a batch."""
    ids, labels = batch["input_ids"], batch.get("labels")
    if ids.ndim == 2 and isinstance(labels, Tensor) and 0 < labels.numel() < len(ids):
        choices, rest = divmod(len(ids), labels.numel())
        if not rest:
            return torch.Size((labels.numel(), choices, ids.shape[1]))
    if ids.ndim != 3:
        raise UserError(
            f"batch {number}: input_ids are {list(ids.shape)}, and a model of multiple choice reads {SHAPE}: make batches by "
            "transformers' DataCollatorForMultipleChoice(tokenizer), or give one example as input_ids[None]"
        )
    return ids.shape


def _check_counts(number: int, counts: Sequence[int]) -> None:
    if 1 in counts:
        raise UserError(
            f"batch {number}, example {counts.index(1)} has one choice, which is right whatever the model says: give two or "
            "more, or remove it"
        )


def _flat(number: int, name: str, value: Any, shape: torch.Size, there: Tensor) -> Any:
    if value is None:
        return None
    if value.numel() != shape.numel():
        raise UserError(f"batch {number}: {name} is {list(value.shape)}, input_ids {list(shape)}: one shape")
    return value.reshape(-1, shape[-1])[there.flatten().to(value.device)]
