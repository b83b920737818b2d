"""A user's own batches as calibration examples."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kprune.data import CalibrationSet, Example
from kprune.errors import UserError
from kprune.models.view import longest_input
from kprune.types import Model


def calibration_set(
    model: Model, batches: Iterable[Mapping[str, Tensor]], labels: tuple[str, ...] | None
) -> CalibrationSet:
    """Return the examples of padded batches, without their padding.

    Args:
        labels: entries to keep as an example's label; None withholds them.

    Raises:
        UserError: there is no batch, or one that the model can't read.
    """
    if not isinstance(batches, Iterable):
        raise UserError(f"batches is a {type(batches).__name__}: give an iterable of dicts, such as a DataLoader")
    examples: list[Example] = []
    largest = 0
    for number, batch in enumerate(batches):
        rows = _examples(number, batch, model, labels)
        examples += rows
        largest = max(largest, len(rows))
    if not examples:
        raise UserError("batches is empty: give an iterable of dicts with input_ids, such as a DataLoader")
    return CalibrationSet(examples, largest, model.config.pad_token_id or 0)


def _examples(number: int, batch: Mapping[str, Tensor], model: Model, labels: tuple[str, ...] | None) -> list[Example]:
    if not isinstance(batch, Mapping):
        raise UserError(f"batch {number} is a {type(batch).__name__}: give dicts with input_ids and attention_mask")
    ids = _tensor(number, batch, "input_ids")
    if ids.ndim != 2 or ids.is_floating_point():
        raise UserError(f"batch {number}: input_ids are {list(ids.shape)} {ids.dtype}: give integers [batch, length]")
    if ids.numel() == 0:
        raise UserError(f"batch {number} is empty: input_ids are {list(ids.shape)}")
    mask = torch.ones_like(ids).bool()
    if batch.get("attention_mask") is not None:
        mask = _tensor(number, batch, "attention_mask").bool()
    inputs = {"input_ids": ids}
    if batch.get("token_type_ids") is not None:
        inputs["token_type_ids"] = _tensor(number, batch, "token_type_ids")
    for name, value in {"attention_mask": mask, **inputs}.items():
        if value.shape != ids.shape:
            raise UserError(f"batch {number}: {name} is {list(value.shape)}, input_ids {list(ids.shape)}: one shape")
    lengths = mask.sum(dim=1)
    if (lengths == 0).any():
        row = int((lengths == 0).nonzero()[0])
        raise UserError(f"batch {number}, example {row} is padding alone: remove it from the data")
    if (mask != (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None])).any():
        raise UserError(f"batch {number} is not padded on the right: set the tokenizer's padding_side='right'")
    if int(ids.min()) < 0 or int(ids.max()) >= model.config.vocab_size:
        raise UserError(
            f"batch {number} has token {int(ids.max())}, the model's vocabulary {model.config.vocab_size}: "
            f"tokenize with the model's own tokenizer"
        )
    if int(lengths.max()) > longest_input(model):
        raise UserError(
            f"batch {number} has an example of {int(lengths.max())} tokens, the model reads {longest_input(model)}: "
            f"truncate when tokenizing"
        )
    rows: list[Example] = [
        {name: value[row, :length].tolist() for name, value in inputs.items()}
        for row, length in enumerate(lengths.tolist())
    ]
    if labels:
        values = [_tensor(number, batch, name).tolist() for name in labels]
        for example, label in zip(rows, zip(*values, strict=True), strict=True):
            example["label"] = label if len(labels) > 1 else label[0]
    return rows


def _tensor(number: int, batch: Mapping[str, Any], name: str) -> Tensor:
    if not isinstance(batch.get(name), Tensor):
        raise UserError(
            f"batch {number} has no tensor {name}, but {', '.join(map(str, batch))}: "
            f"give dicts of tensors, {name} among them"
        )
    return batch[name]
