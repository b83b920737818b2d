"""A user's own batches as calibration examples."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kprune.choices import READ, SHAPE, as_examples, as_rows
from kprune.data import CalibrationSet, Example, has_label
from kprune.errors import UserError
from kprune.models.copies import frozen_shared_copy
from kprune.models.families import family_of
from kprune.models.inputs import call, longest_input, on_device, padding_of, token_types
from kprune.objectives import Objective
from kprune.objectives.base import IGNORED
from kprune.types import Model

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
PACKED = ("cu_seq_lens_q", "seq_idx")
"""What collators of transformers can give in place of `position_ids` to tell of several texts in one row."""
SAME = 1e-4
"""Answers that differ by less, relative to the largest, differ by rounding."""


def calibration_set(
    model: Model, batches: Iterable[Mapping[str, Tensor]], objective: Objective, labels: bool
) -> CalibrationSet:
    """Return the examples of padded batches, without their padding.

    `token_type_ids` are left out if the model has none, and 0 for batches that have none.

    Args:
        labels: whether to keep the labels; they are kept anyway if `objective.reads_labels`.

    Raises:
        UserError: there is no batch, or one that the model can't read.
    """
    if not isinstance(batches, Iterable):
        raise UserError(f"batches is a {type(batches).__name__}: give an iterable of dicts, such as a DataLoader")
    if isinstance(batches, Mapping):
        raise UserError("batches is one batch, not an iterable of them: give [batch]")
    examples: list[Example] = []
    largest = 0
    for number, batch in enumerate(batches):
        rows = _examples(number, batch, model, objective, labels)
        examples += rows
        largest = max(largest, len(rows))
    if not examples:
        raise UserError("batches is empty: give an iterable of dicts with input_ids, such as a DataLoader")
    if objective.reads_labels and not any(has_label(example) for example in examples):
        raise UserError(
            "no batch has a label other than -100, so that the model is asked for nothing: make batches by transformers' "
            "DataCollatorForLanguageModeling(tokenizer)"
        )
    typed = ["token_type_ids" in example for example in examples]
    if any(typed) and not all(typed):
        if family_of(model).types_are_words:
            raise UserError(
                "some batches have token_type_ids and some none, which this model does not read as 0: give one kind"
            )
        examples = [{"token_type_ids": [0] * len(example["input_ids"]), **example} for example in examples]
    return CalibrationSet(examples, largest, padding_of(model))


def _examples(
    number: int, batch: Mapping[str, Tensor], model: Model, objective: Objective, labels: bool
) -> list[Example]:
    if not isinstance(batch, Mapping):
        raise UserError(f"batch {number} is a {type(batch).__name__}: give dicts with input_ids and attention_mask")
    ids = _checked_ids(number, batch, objective)
    counts = None
    if objective.of_choices:
        given = {name: _tensor(number, batch, name) for name in READ if batch.get(name) is not None}
        batch, counts = as_rows(number, {**batch, **given})
        ids = batch["input_ids"]
    mask = _checked_mask(number, batch, ids)
    if objective.reads_labels and batch.get("labels") is None:
        raise UserError(
            f"batch {number} has no labels, which say at which tokens the model is asked for what was masked: make batches by "
            "transformers' DataCollatorForLanguageModeling(tokenizer)"
        )
    inputs = {"input_ids": ids}
    if batch.get("token_type_ids") is not None and token_types(model):
        inputs["token_type_ids"] = _tensor(number, batch, "token_type_ids")
    for name, value in {"attention_mask": mask, **inputs}.items():
        if value.shape != ids.shape:
            raise UserError(f"batch {number}: {name} is {list(value.shape)}, input_ids {list(ids.shape)}: one shape")
    _check_not_packed(number, batch, mask, model)
    lengths = mask.sum(dim=1)
    if (lengths == 0).any():
        row = int((lengths == 0).nonzero()[0])
        raise UserError(f"batch {number}, example {row} is padding alone: remove it from the data")
    for name, value in inputs.items():
        _check_numbers(number, name, value, model)
    if int(lengths.max()) > longest_input(model):
        raise UserError(
            f"batch {number} has an example of {int(lengths.max())} tokens, the model reads {longest_input(model)}: "
            f"truncate when tokenizing (truncation=True, max_length={longest_input(model)})"
        )
    starts = _starts(number, ids, mask, lengths, model, objective)
    spans = list(zip(starts.tolist(), lengths.tolist(), strict=True))
    rows: list[Example] = [
        {name: value[row, start : start + length].tolist() for name, value in inputs.items()}
        for row, (start, length) in enumerate(spans)
    ]
    examples = rows if counts is None else as_examples(rows, counts)
    if labels or objective.reads_labels:
        _add_labels(number, batch, examples, starts, objective, model)
    return examples


def _checked_ids(number: int, batch: Mapping[str, Tensor], objective: Objective) -> Tensor:
    """Return a batch's `input_ids`.

    Raises:
        UserError: they are no integers, have another number of dimensions, or are empty.
    """
    ids = _tensor(number, batch, "input_ids")
    if ids.dtype not in INTEGERS or (ids.ndim != 2 and not objective.of_choices):
        raise UserError(
            f"batch {number}: input_ids are {list(ids.shape)} {ids.dtype}: give integers "
            f"{SHAPE if objective.of_choices else '[batch, length]'}"
        )
    if ids.numel() == 0:
        raise UserError(f"batch {number} is empty: input_ids are {list(ids.shape)}")
    return ids


def _checked_mask(number: int, batch: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """Return a batch's `attention_mask` as bool; True everywhere without one.

    Raises:
        UserError: it holds something else than zeros and ones.
    """
    if batch.get("attention_mask") is None:
        return torch.ones_like(ids, dtype=torch.bool)
    mask = _tensor(number, batch, "attention_mask")
    if ((mask != 0) & (mask != 1)).any():
        raise UserError(
            f"batch {number} has an attention_mask of more than zeros and ones: give 1 for tokens, 0 for padding"
        )
    return mask.bool()


def _check_not_packed(number: int, batch: Mapping[str, Tensor], mask: Tensor, model: Model) -> None:
    """Check that each row is one text, its positions those that the model counts by itself.

    Args:
        mask: [R, T] bool.

    Raises:
        UserError: a row is several texts, or its positions are others.
    """
    wrong = any(batch.get(name) is not None for name in PACKED)
    if batch.get("position_ids") is not None:
        positions = _tensor(number, batch, "position_ids").to(mask.device)
        # Those of RoBERTa begin behind the padding's.
        counted = mask.cumsum(dim=1) - 1 + model.config.max_position_embeddings - longest_input(model)
        wrong = positions.shape != mask.shape or bool((positions != counted)[mask].any())
    if wrong:
        raise UserError(
            f"batch {number} has several texts in a row, or position_ids other than the model's own: give each text a row of its "
            "own, as transformers' DataCollatorWithPadding(tokenizer) does, and no position_ids"
        )


def _starts(number: int, ids: Tensor, mask: Tensor, lengths: Tensor, model: Model, objective: Objective) -> Tensor:
    """Return where each example begins in a batch: [B].

    Raises:
        UserError: padding lies between tokens, or before them, and the model's answer depends on the side.
    """
    starts = mask.int().argmax(dim=1)
    places = torch.arange(mask.shape[1], device=mask.device)
    if (mask != ((places >= starts[:, None]) & (places < (starts + lengths)[:, None]))).any():
        raise UserError(f"batch {number} has padding between tokens: give attention_mask of ones, then zeros")
    if starts.any():
        row = int(starts.argmax())
        if not same_without_padding(model, objective, ids[row], mask[row]):
            raise UserError(
                f"batch {number} is padded on the left, and the model's answer depends on the side: "
                "set the tokenizer's padding_side='right'"
            )
    return starts


@torch.no_grad()
def same_without_padding(model: Model, objective: Objective, ids: Tensor, mask: Tensor) -> bool:
    """Tell whether a model answers the same without the padding before an example.

    It does not if positions count from the padding, or if the head reads the first token whatever it is.

    Args:
        ids: of one example, [T].
        mask: of it, [T] bool.
    """
    end = int(mask.nonzero().max()) + 1
    # Padding may be more than the model reads; the example itself is not.
    ids, mask = (row[:end][-longest_input(model) :] for row in (ids, mask))
    model = frozen_shared_copy(model)
    answers = []
    for tokens, real in ((ids, mask), (ids[mask], mask[mask])):
        given = {"input_ids": tokens[None], "attention_mask": real[None].long()}
        if objective.of_choices:
            given["choices"] = torch.ones(1, dtype=torch.long)
        batch = on_device(given, model.device)
        answers.append(objective.read(call(model, batch), batch["attention_mask"])[0])
    padded, plain = answers
    if padded.shape != plain.shape:  # a head that answers for every token
        where = next(axis for axis, size in enumerate(plain.shape) if size != padded.shape[axis])
        padded = padded.index_select(where, mask.nonzero()[:, 0].to(padded.device))
    return bool((padded - plain).abs().max() <= SAME * plain.abs().max())


def _check_numbers(number: int, name: str, values: Tensor, model: Model) -> None:
    if values.dtype not in INTEGERS:
        raise UserError(f"batch {number}: {name} are {values.dtype}: give integers, {name}.long()")
    size = model.config.vocab_size if name == "input_ids" else token_types(model)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= size:
        wrong = lowest if lowest < 0 else highest
        what = "token" if name == "input_ids" else "token type"
        of = "vocabulary" if name == "input_ids" else "number of types"
        raise UserError(
            f"batch {number} has {what} {wrong}, the model's {of} is {size}: tokenize with the model's own tokenizer"
        )


def _add_labels(
    number: int, batch: Mapping[str, Tensor], rows: list[Example], starts: Tensor, objective: Objective, model: Model
) -> None:
    limits = [objective.label_values(model, row) for row in rows]
    values = []
    for name in objective.label_keys:
        value = _tensor(number, batch, name)
        if not value.ndim or len(value) != len(rows):
            raise UserError(f"batch {number}: {name} is {list(value.shape)}, and there are {len(rows)} examples")
        _check_shape(number, name, value, batch, objective, model)
        if objective.labels_of == "token":
            ends = [len(row["input_ids"]) for row in rows]
            values.append([v[s : s + e].tolist() for v, s, e in zip(value, starts.tolist(), ends, strict=True)])
        else:
            # A position counts from the example's first token.
            values.append((value - starts.to(value) if objective.labels_are_positions else value).tolist())
        for place, (label, limit) in enumerate(zip(values[-1], limits, strict=True)):
            if limit is None:
                continue
            wrong = [entry for entry in _entries(label, objective) if not _fits(entry, limit, objective)]
            if wrong:
                remedy = f"convert them, {name}.long()" if wrong[0] in range(limit) else "mend it"
                raise UserError(
                    f"batch {number}, example {place}: {name} is {wrong[0]}, not a whole number from 0 to {limit - 1}: {remedy}"
                )
        if not torch.isfinite(value).all():
            raise UserError(f"batch {number} has {name} that are NaN or infinite: mend them")
    for row, label in zip(rows, zip(*values, strict=True), strict=True):
        row["label"] = label if len(values) > 1 else label[0]


def _check_shape(
    number: int, name: str, value: Tensor, batch: Mapping[str, Tensor], objective: Objective, model: Model
) -> None:
    """Check that labels have one number for each example, token or output, as `objective.labels_of` says.

    Raises:
        UserError: their shape is another.
    """
    tokens = batch["input_ids"].shape[1]
    of_label = objective.label_shape(model, tokens)
    if list(value.shape[1:]) == of_label:
        return
    if objective.labels_of == "example" and value.ndim > 1 and value.shape[1] == tokens:
        raise UserError(f"batch {number}: {name} has one for every token: use a method that needs no labels, as kprune")
    each = "output" if objective.labels_of == "example" and of_label else objective.labels_of
    raise UserError(
        f"batch {number}: {name} is {list(value.shape)}, and a {objective.name} head needs {[len(value), *of_label]}, one for each "
        f"{each}: mend it"
    )


def _entries(label: Any, objective: Objective) -> list[Any]:
    """Return the numbers of an example's label."""
    return [label] if objective.labels_of == "example" else label


def _fits(entry: Any, limit: int, objective: Objective) -> bool:
    """Tell whether a number of a label is a whole number from 0 to `limit` − 1, or of a token that has no label."""
    if objective.labels_of == "token" and entry == IGNORED:
        return True
    # transformers' loss of several labels takes zeros and ones as fractions.
    return (isinstance(entry, int) or objective.labels_of == "output") and entry in range(limit)


def _tensor(number: int, batch: Mapping[str, Any], name: str) -> Tensor:
    value = batch.get(name)
    if value is not None and not isinstance(value, Tensor):
        raise UserError(
            f"batch {number}: {name} is a {type(value).__name__}: give a tensor, as tokenizers do if told return_tensors='pt'"
        )
    if value is None:
        raise UserError(
            f"batch {number} has no tensor {name}, but {', '.join(map(str, batch))}: "
            f"give dicts of tensors, {name} among them"
        )
    if value.is_nested or value.layout != torch.strided:
        raise UserError(f"batch {number} has {name} as a nested or sparse tensor: pad it, or call its to_dense()")
    if value.is_meta:
        raise UserError(f"batch {number} has {name} on the meta device, without values: give them on a CPU or GPU")
    return value
