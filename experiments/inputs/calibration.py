"""The calibration set: examples drawn from the training set or from texts with the cell's seed, or the examples of a file."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from experiments.config.groups import CalibrationSettings
from experiments.inputs.checkpoints import positions_of
from experiments.inputs.drawing import Amount, DrawnTexts
from experiments.tasks.base import Task
from kprune.data import CalibrationSet, Example, lengths, mean_length
from kprune.errors import UserError
from kprune.models.inputs import token_types
from kprune.objectives import Objective
from kprune.objectives.base import IGNORED

MEASURED, MEASURED_OF_MORE = 20_000, 5_000
"""The largest training set of which every length is measured, and the number of lengths measured in a larger set, whose mean is
then within 2 %."""


def draw_calibration(task: Task, tokenizer, settings: CalibrationSettings, seed: int, labels: bool) -> CalibrationSet:
    """Draw a cell's calibration examples: from texts if the task or the settings name texts, else from the task's training set.

    Args:
        labels: whether the method reads labels.

    Raises:
        UserError: `tokens` is too small for a single example, or the data can't be found or read.
    """
    texts = task.calibration_texts(settings.data)
    if texts is None:
        return draw_training(task, tokenizer, settings, seed, labels)
    examples, draw = task.draw(texts, tokenizer, Amount(settings.examples, settings.tokens), seed)
    origin = {"data": texts.source, "texts": len(texts.documents), "window": task.max_length, "draw": draw}
    return DrawnTexts(examples, task.batch_size, tokenizer.pad_token_id or 0, **origin)


def draw_training(task: Task, tokenizer, settings: CalibrationSettings, seed: int, labels: bool) -> CalibrationSet:
    """Draw examples from the training set with replacement, as in the K-prune authors' code; at most as many as the set has.

    Args:
        settings: `examples` is the number of examples to draw. If it is None, the number is `tokens` divided by the mean number of
            tokens of an example, as in the authors' code: the result of `average_length`, times the number of choices in a
            multiple choice.
        labels: whether the method reads labels.

    Raises:
        UserError: `tokens` is too small for a single example, or the training data can't be found or read.
    """
    training = task.training(tokenizer)
    count = settings.examples
    if count is None:
        average = average_length(task, training) * task.sequences
        count = int(settings.tokens / average)
        if count < 1:
            raise UserError(
                f"calibration.tokens={settings.tokens} is less than one example of {average:.0f} tokens: raise it"
            )
    rows = np.random.default_rng(seed).integers(len(training), size=min(count, len(training)))
    return calibration_set([training[int(row)] for row in rows], task, tokenizer, labels)


def read_calibration(file: str, task: Task, tokenizer, model: PreTrainedModel, labels: bool) -> CalibrationSet:
    """Return the examples of a JSON file: `{"batch_size": 32, "examples": [{"input_ids": [...], "label": 1}, ...]}`.

    Args:
        file: the path of the file.
        model: the dense model, which limits the tokens, the token types and the length.
        labels: whether the method reads labels.

    Raises:
        UserError: the file is missing, damaged or without examples; an example is only padding or longer than the model reads; a
            token, token type, choice or label is out of range or missing; an attention mask does not fit its tokens; or the batch
            size is no whole number from 1.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"calibration.file={file} does not exist: give the path of a JSON file")
    try:
        content = json.loads(path.read_bytes())  # json detects UTF-8, UTF-16 and UTF-32 in bytes
        examples = [
            {key: example[key] for key in ("input_ids", "token_type_ids", "choices", "label") if key in example}
            for example in content["examples"]
        ]
        batch_size = content.get("batch_size", task.batch_size)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is no whole number from 1")
        for row, (example, original) in enumerate(zip(examples, content["examples"], strict=True)):
            _unpad(example, original.get("attention_mask"), task.objective.labels_are_positions, row)
            if all(token == tokenizer.pad_token_id for token in example["input_ids"]):
                raise UserError(f"calibration.file={file}: example {row} is padding alone: remove it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"calibration.file={file} is damaged ({type(error).__name__}: {error}): it needs a list of examples with input_ids"
        ) from error
    if not examples:
        raise UserError(f"calibration.file={file} is empty: give a list of examples")
    _check_choices(examples, task.objective.of_choices, file)
    _check_tokens(examples, len(tokenizer), positions_of(model.config.to_dict()), file)
    _check_token_types(examples, token_types(model), file)
    values = len(tokenizer) if task.objective.reads_labels else task.num_labels
    for row, example in enumerate(examples):
        if "label" in example and (wanted := _wrong_label(example, task.objective, values)):
            raise UserError(f"calibration.file={file}: example {row} has label {example['label']}, {wanted}: mend it")
    if (labels or task.objective.reads_labels) and any("label" not in example for example in examples):
        raise UserError(f"calibration.file={file} has examples without a label, which this method needs: add them")
    return calibration_set(examples, task, tokenizer, labels, batch_size)


def calibration_set(examples, task: Task, tokenizer, labels: bool, batch_size: int | None = None) -> CalibrationSet:
    """Return a calibration set; the labels are removed unless `labels` says that the method reads them or the objective does."""
    if not labels and not task.objective.reads_labels:
        examples = [{key: value for key, value in example.items() if key != "label"} for example in examples]
    return CalibrationSet(examples, batch_size or task.batch_size, tokenizer.pad_token_id or 0)


def average_length(task: Task, training: Sequence[Example]) -> float:
    """Return the mean number of tokens of a sequence: the task's setting or, without one, the mean over its training set.

    In a training set of more than `MEASURED` examples, the mean is over a seeded draw of `MEASURED_OF_MORE` examples.
    """
    if task.average_length:
        return task.average_length
    if len(training) <= MEASURED:
        return mean_length(training)
    rows = np.random.default_rng(0).choice(len(training), MEASURED_OF_MORE, replace=False)
    return mean_length([training[int(row)] for row in sorted(rows)])


def _wrong_label(example: Example, objective: Objective, values: int | None) -> str | None:
    """Return what is wrong with an example's label, in words; None if the label fits the objective.

    Args:
        example: an example with a label.
        objective: the objective of the task.
        values: the number of classes or tokens, which label numbers are below; 1 if a label is a value; None if it is not checked.
    """
    label, tokens = example["label"], len(example["input_ids"])
    if objective.labels_are_positions:
        fits = isinstance(label, list) and len(label) == len(objective.label_keys)
        return (
            None
            if fits and all(_within(place, tokens) for place in label)
            else f"not two places from 0 to {tokens - 1}"
        )
    if values is None:
        return None
    if objective.labels_of == "example":
        if values > 1:
            return None if _within(label, values) else f"outside 0 to {values - 1}"
        finite = isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label)
        return None if finite else "no finite number"
    of_tokens = objective.labels_of == "token"
    size, known = (tokens, values) if of_tokens else (values, 2)
    fits = isinstance(label, list) and len(label) == size
    if fits and all(_within(entry, known) or (of_tokens and entry == IGNORED) for entry in label):
        return None
    return f"not a list of {size} numbers from {IGNORED if of_tokens else 0} to {known - 1}, one for each {objective.labels_of}"


def _within(value: Any, values: int) -> bool:
    return type(value) is int and 0 <= value < values


def _unpad(example: Example, mask: list[int] | None, label_moves: bool, row: int) -> None:
    """Remove the padding of an example, in place; if a label has places of tokens, they are counted anew.

    Args:
        example: the example.
        mask: [tokens], 1 for a token and 0 for padding; None without padding.
        label_moves: whether the label has places of tokens.
        row: the number of the example, for messages.

    Raises:
        ValueError: the token types or the mask differ in number from the tokens, or the label has a place in the padding.
    """
    tokens, types = len(example["input_ids"]), len(example.get("token_type_ids", example["input_ids"]))
    if types != tokens:
        raise ValueError(f"example {row} has {types} token_type_ids for {tokens} tokens")
    if mask is None:
        return
    if len(mask) != tokens or not set(mask) <= {0, 1}:
        raise ValueError(f"example {row} has no attention_mask of {tokens} zeros and ones")
    for key in ("input_ids", "token_type_ids"):
        if key in example:
            example[key] = [entry for entry, real in zip(example[key], mask, strict=True) if real]
    if label_moves and isinstance(example.get("label"), list):
        if any(_within(place, tokens) and not mask[place] for place in example["label"]):
            raise ValueError(f"example {row} has a label in its padding")
        example["label"] = [sum(mask[:place]) if _within(place, tokens) else place for place in example["label"]]


def _check_tokens(examples: list[Example], vocabulary: int, positions: int | None, file: str) -> None:
    for row, example in enumerate(examples):
        if not all(isinstance(token, int) and 0 <= token < vocabulary for token in example["input_ids"]):
            raise UserError(
                f"calibration.file={file}: example {row} has a token outside the vocabulary of {vocabulary}: mend it"
            )
        longest = max(lengths(example))
        if positions is not None and longest > positions:
            raise UserError(
                f"calibration.file={file}: example {row} has {longest} tokens, the model reads {positions}: shorten it"
            )


def _check_token_types(examples: list[Example], types: int, file: str) -> None:
    """Check that all examples have token types or none has, and that the types are below `types`, the number that the model reads.

    Raises:
        UserError: they are not.
    """
    with_types = [example for example in examples if "token_type_ids" in example]
    if with_types and len(with_types) < len(examples):
        raise UserError(
            f"calibration.file={file}: some examples have token_type_ids and some have none: give all or none"
        )
    if with_types and not types:
        raise UserError(f"calibration.file={file} has token_type_ids, which this model does not take: remove them")
    for row, example in enumerate(with_types):
        if not all(isinstance(kind, int) and 0 <= kind < types for kind in example["token_type_ids"]):
            raise UserError(
                f"calibration.file={file}: example {row} has a token type outside 0 to {types - 1}: mend token_type_ids"
            )


def _check_choices(examples: list[Example], wanted: bool, file: str) -> None:
    """Check that examples of multiple choice list the numbers of tokens of their choices, and that other examples have no choices.

    Raises:
        UserError: an example has wrong choices, or its label is not the number of a choice.
    """
    for row, example in enumerate(examples):
        own = example.get("choices")
        if not wanted and own is None:
            continue
        whole = isinstance(own, list) and all(type(length) is int and length > 0 for length in own)
        if not wanted or not isinstance(own, list) or not whole or len(own) < 2:
            remedy = (
                "give a list with the number of tokens of each, two or more"
                if wanted
                else "remove them: the task has none"
            )
            raise UserError(f"calibration.file={file}: example {row} has choices {own}: {remedy}")
        if sum(own) != len(example["input_ids"]):
            raise UserError(
                f"calibration.file={file}: example {row} has choices of {sum(own)} tokens, and {len(example['input_ids'])} "
                "input_ids: mend it"
            )
        if "label" in example and not _within(example["label"], len(own)):
            raise UserError(
                f"calibration.file={file}: example {row} has label {example['label']}, outside 0 to {len(own) - 1}: mend it"
            )
