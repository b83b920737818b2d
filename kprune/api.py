"""Prune somebody's own model on somebody's own batches, in one call."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kprune.budgets.flops import Budget
from kprune.budgets.latency import STANDARD, Point, check_speedup, prune_to_speedup
from kprune.contract import Outcome, Pruner, PruningData
from kprune.data import CalibrationSet, Example
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.models import adapter_for
from kprune.models.adapter import longest_input
from kprune.models.flops import flops_reduction as flops_removed
from kprune.objectives import OBJECTIVES, Objective, Span, objective_of

METHODS: dict[str, Callable[[], Pruner]] = {"kprune": KPrune, "kprune_plus": KPrunePlus}


def prune(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    flops_reduction: float = 0.8,
    method: str | Pruner = "kprune",
    task: str | Objective | None = None,
    speedup: float | None = None,
    speedup_at: Point | None = None,
) -> Outcome:
    """Prune a fine-tuned model, which is left as it was; about 100,000 tokens of its training texts suffice.

    Args:
        model: a transformers model with a head for sequence classification, regression or question answering.
        batches: such as a DataLoader. Of each, [B, T] `input_ids`, `attention_mask` (ones, then zeros; without it no
            token is padding) and `token_type_ids` are read; `labels` ([B]; for question answering `start_positions` and
            `end_positions`) by methods that need them alone.
        flops_reduction: share of FLOPs to remove, counted at the mean length of the examples.
        method: "kprune", "kprune_plus", or any object with a Pruner's attributes, such as KPrunePlus(refit_epochs=0).
        task: "classification", "regression" or "span", where the model's head does not tell.
        speedup: in place of `flops_reduction`, how much faster the model is to be, as measured here and now.
        speedup_at: batch size and length that is measured at; 32 and 128, or the model's longest, where left out.

    Returns:
        `outcome.model` is the pruned model, `outcome.save(folder)` writes it; `outcome.details` has what was measured:
        `flops_reduction`, the `sequence_length` it is counted at, and with a `speedup` the `latency` (within 5 % of what
        was asked for, unless `latency_budget` says that two corrections did not reach it).

    Raises:
        UserError: the model, the batches or a setting is not one that can be pruned (with); the message says which.
    """
    pruner = _pruner(method)
    objective = _objective(task, model)
    dense = adapter_for(model)
    Budget(flops_reduction, 1.0) if speedup is None else check_speedup(speedup)
    _check_weights(model)
    if not any(sublayer.units for sublayer in dense.sublayers):
        raise UserError("the model has no head and no neuron left: there is nothing to prune")
    calibration = calibration_set(model, batches, labels_of(objective) if pruner.needs_labels else None)
    length = calibration.tokens / len(calibration.examples)
    data, found = PruningData(calibration), {}
    if speedup is None:
        budget = Budget(flops_reduction, length)
        budget.check_reach(pruner, model)
        outcome = pruner.prune(model, objective, data, budget)
    else:
        point = speedup_at or replace(STANDARD, sequence_length=min(STANDARD.sequence_length, longest_input(model)))
        outcome, found["latency"] = prune_to_speedup(pruner, model, objective, data, speedup, length, point)
    found["flops_reduction"] = flops_removed(dense, adapter_for(outcome.model), length)
    outcome.details |= {"sequence_length": length} | found
    return outcome


def labels_of(objective: Objective) -> tuple[str, ...]:
    """The names under which transformers' batches carry an objective's labels."""
    return ("start_positions", "end_positions") if isinstance(objective, Span) else ("labels",)


def calibration_set(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], labels: tuple[str, ...] | None
) -> CalibrationSet:
    """The examples of padded batches, without their padding.

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


def _examples(
    number: int, batch: Mapping[str, Tensor], model: nn.Module, labels: tuple[str, ...] | None
) -> list[Example]:
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
    rows = [
        {name: value[row, :length].tolist() for name, value in inputs.items()}
        for row, length in enumerate(lengths.tolist())
    ]
    if labels:
        values = [_tensor(number, batch, name).tolist() for name in labels]
        for row, label in zip(rows, zip(*values, strict=True), strict=True):
            row["label"] = label if len(labels) > 1 else label[0]
    return rows


def _tensor(number: int, batch: Mapping[str, Any], name: str) -> Tensor:
    if not isinstance(batch.get(name), Tensor):
        raise UserError(
            f"batch {number} has no tensor {name}, but {', '.join(map(str, batch))}: "
            f"give dicts of tensors, {name} among them"
        )
    return batch[name]


def _pruner(method: str | Pruner) -> Pruner:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise UserError(f"method '{method}' is unknown: use {', '.join(METHODS)}, or give a Pruner object")
    return METHODS[method]()


def _objective(task: str | Objective | None, model: nn.Module) -> Objective:
    if task is None:
        return objective_of(model)
    if isinstance(task, Objective):
        return task
    if task not in OBJECTIVES:
        raise UserError(f"task '{task}' is unknown: use {', '.join(OBJECTIVES)}, or leave it out")
    return OBJECTIVES[task]()


def _check_weights(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"{name} is {parameter.dtype}, too coarse to measure and solve with: load the model in float32 "
                f"(from_pretrained(..., dtype='float32') or model.float()) and convert what is pruned"
            )
        if not torch.isfinite(parameter).all():
            raise UserError(f"{name} has values that are NaN or infinite: the model is damaged, give another")
