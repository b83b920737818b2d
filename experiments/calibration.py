"""The calibration set: examples of the training set, drawn with the cell's seed, or those of a file."""

import json
from pathlib import Path

import numpy as np

from experiments.tasks.base import Task
from kprune.errors import UserError
from kprune.pruner import CalibrationSet, Example


def draw_calibration(task: Task, tokenizer, tokens: int, seed: int, labels: bool) -> CalibrationSet:
    """About `tokens` tokens of the training set: tokens / average length examples, drawn with replacement.

    The number of examples and the drawing with replacement are those of the K-prune authors' code. Where the task has
    no average length, it is the training set's own mean.

    Raises:
        UserError: too few tokens for a single example, or no training data.
    """
    training = task.training(tokenizer)
    average = task.average_length or mean_length(training)
    count = min(int(tokens / average), len(training))
    if count < 1:
        raise UserError(f"calibration.tokens={tokens} is less than one example of {average:.0f} tokens: raise it")
    rows = np.random.default_rng(seed).integers(len(training), size=count)
    return calibration_set([training[int(row)] for row in rows], task, tokenizer, labels)


def read_calibration(file: str, task: Task, tokenizer, labels: bool) -> CalibrationSet:
    """The examples of a JSON file: `{"batch_size": 32, "examples": [{"input_ids": [...], "label": 1}, ...]}`.

    Raises:
        UserError: the file is missing or damaged, empty, an example is padding alone, or a label is out of range.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"calibration.file={file} does not exist: give the path of a JSON file")
    try:
        content = json.loads(path.read_text())
        examples = [
            {key: example[key] for key in ("input_ids", "token_type_ids", "label") if key in example}
            for example in content["examples"]
        ]
        batch_size = int(content.get("batch_size", task.batch_size))
        for row, (example, original) in enumerate(zip(examples, content["examples"], strict=True)):
            _unpad(example, original.get("attention_mask"), tokenizer.pad_token_id, row, file)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"calibration.file={file} is damaged ({type(error).__name__}: {error}): it needs a list of examples with input_ids"
        ) from error
    _check_tokens(examples, len(tokenizer), file)
    if task.num_labels and task.num_labels > 1:
        for row, example in enumerate(examples):
            if "label" in example and not (
                isinstance(example["label"], int) and 0 <= example["label"] < task.num_labels
            ):
                raise UserError(
                    f"calibration.file={file}: example {row} has label {example['label']}, outside 0 to "
                    f"{task.num_labels - 1}: mend it"
                )
    if labels and any("label" not in example for example in examples):
        raise UserError(f"calibration.file={file} has examples without a label, which this method needs: add them")
    return calibration_set(examples, task, tokenizer, labels, batch_size)


def calibration_set(examples, task: Task, tokenizer, labels: bool, batch_size: int | None = None) -> CalibrationSet:
    """Labels are left out unless the method declares that it needs them."""
    if not labels:
        examples = [{key: value for key, value in example.items() if key != "label"} for example in examples]
    return CalibrationSet(examples, batch_size or task.batch_size, tokenizer.pad_token_id or 0)


def mean_length(examples) -> float:
    """Mean number of tokens."""
    return sum(len(example["input_ids"]) for example in examples) / len(examples)


def _unpad(example: Example, mask: list[int] | None, pad_token_id: int, row: int, file: str) -> None:
    length = sum(mask) if mask is not None else len(example["input_ids"])
    for key in ("input_ids", "token_type_ids"):
        if key in example:
            example[key] = example[key][:length]
    if all(token == pad_token_id for token in example["input_ids"]):
        raise UserError(f"calibration.file={file}: example {row} is padding alone: remove it")


def _check_tokens(examples: list[Example], vocabulary: int, file: str) -> None:
    for row, example in enumerate(examples):
        if not all(isinstance(token, int) and 0 <= token < vocabulary for token in example["input_ids"]):
            raise UserError(
                f"calibration.file={file}: example {row} has a token outside the vocabulary of {vocabulary}: mend it"
            )
