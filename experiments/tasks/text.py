"""Tasks on a text or a pair of texts: classification and regression."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from experiments.inputs.texts import CALIBRATION, Texts, check_file, read_file
from experiments.scoring import counts
from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet, Task
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import Classification, MultiLabel, Objective, Regression
from kprune.truncation import shortened_columns

PROBLEMS: dict[str, tuple[type[Objective], tuple[str, ...]]] = {
    "classification": (Classification, ("accuracy", "f1", "matthews")),
    "multi_label": (MultiLabel, ("micro_f1", "macro_f1")),
    "regression": (Regression, ("spearman",)),
}
"""The objective of each problem and its metrics; the first metric is the default."""
Label = int | float | list[int]
"""A class number, a value, or a list with 0 or 1 for each class."""
CHUNK = 2000
"""Number of rows that are tokenised together."""


@dataclass(frozen=True)
class Table:
    """The rows of a data set.

    Attributes:
        source: the name of the data, for messages.
        texts: one or two columns of texts, each as long as `labels`.
        labels: the label of each row.
        rows: the number of each row, for messages; None counts from 0.

    Raises:
        UserError: there are no rows, or a text is no string.
    """

    source: str
    texts: Sequence[Sequence[str]]
    labels: Sequence[Label]
    rows: Sequence[int] | None = None

    def __post_init__(self):
        if not len(self.labels):
            raise UserError(f"{self.source} has no rows: give it some, or another file or split")
        for column in self.texts:
            for i, text in enumerate(column):
                if not isinstance(text, str):
                    raise UserError(f"{self.row(i)}: {text!r} is no text; mend it or remove the row")

    def row(self, i: int) -> str:
        return f"{self.source}, row {i if self.rows is None else self.rows[i]}"


class TextTask(Task):
    """Classification or regression of texts or pairs of texts; a subclass reads the rows.

    Attributes:
        evaluation_split: name of the evaluation data, for the record.
        text: the column of texts, or two columns for pairs.
        problems: the keys of `PROBLEMS` that the subclass supports.

    Raises:
        UserError: the problem is not one of `problems`, or the metric does not fit the problem.
    """

    evaluation_split: str
    text: Sequence[str] = ("text",)
    problems: Sequence[str] = ("classification", "regression")

    def __init__(
        self,
        name: str,
        problem: str,
        metric: str | None,
        max_length: int,
        average_length: float | None,
        batch_size: int,
    ):
        super().__init__()
        if problem not in self.problems:
            raise UserError(f"task.problem={problem} is unknown: give {' or '.join(self.problems)}")
        objective, metrics = PROBLEMS[problem]
        if metric is not None and metric not in metrics:
            others = "; ".join(f"{' or '.join(PROBLEMS[other][1])} for {other}" for other in self.problems)
            raise UserError(f"task.metric={metric} does not fit {problem}: give {others}")
        self.name = name
        self.metric = metric or metrics[0]
        self.max_length = max_length
        self.average_length = average_length
        self.batch_size = batch_size
        self.objective = objective()

    @property
    def regression(self) -> bool:
        return isinstance(self.objective, Regression)

    @property
    def several(self) -> bool:
        """Tell whether a text has several labels: a list with 0 or 1 for each of `label_names`."""
        return isinstance(self.objective, MultiLabel)

    def training_table(self) -> Table:
        raise NotImplementedError

    def evaluation_table(self) -> Table:
        raise NotImplementedError

    def tokenise_training(self, tokenizer) -> "LazyExamples":
        """Return the labelled training set; a row is tokenised at its first use, so that reading a few rows is fast."""
        table = self.training_table()
        labels = self.checked_labels(table)
        self.check_length(tokenizer, len(table.texts))
        return LazyExamples(tokenizer, table.texts, labels, self.max_length)

    def tokenise_evaluation(self, tokenizer) -> "TextEvaluation":
        table = self.evaluation_table()
        labels = self.checked_labels(table)
        self.check_length(tokenizer, len(table.texts))
        examples = tokenise(tokenizer, table.texts, self.max_length)
        return TextEvaluation(self.evaluation_split, examples, labels, self.metric, self.num_labels)

    def check_data(self, data: str | None) -> None:
        """Check that `data` is a file of texts and that an example of the task has one text; None is the task's own data.

        Raises:
            UserError: the task is on pairs, `data` names a data set for language models, or the file does not exist.
        """
        if data is None:
            return
        if len(self.text) > 1:
            super().check_data(data)
        if data in CALIBRATION:
            raise UserError(
                f"calibration.data={data} calibrates language models: give a file of texts such as {self.name}'s, or leave it out"
            )
        check_file(Path(data).expanduser(), "calibration.data")

    def calibration_texts(self, data: str | None) -> Texts | None:
        return None if data is None else read_file(Path(data).expanduser(), "calibration.data", lines=True)

    def tokenise_texts(self, tokenizer, texts: Sequence[str]) -> list[Example]:
        return tokenise(tokenizer, [texts], self.max_length)

    def checked_labels(self, table: Table) -> list[Label]:
        """Return the labels in the form that the loss expects: class numbers, finite values, or lists of zeros and ones.

        Raises:
            UserError: a label is missing or out of range (the message names its row), or the metric f1 is asked for with a number
                of classes other than two.
        """
        if self.metric == "f1" and self.num_labels != 2:
            raise UserError(
                f"task.metric=f1 is the F1 of the second of two classes, and {self.name} has {self.num_labels}: give accuracy or matthews"
            )
        if self.several:
            return list(table.labels)
        checked = []
        for i, label in enumerate(table.labels):
            if label is None or not math.isfinite(label):
                raise UserError(f"{table.row(i)}: the label is {label}; fill it in or remove the row")
            if not self.regression and (label != int(label) or not 0 <= label < self.num_labels):
                raise UserError(
                    f"{table.row(i)}: label {label} is outside 0..{self.num_labels - 1} "
                    f"({', '.join(self.label_names)}); mend the data or the task's label_names"
                )
            checked.append(float(label) if self.regression else int(label))
        return checked


class LazyExamples(Sequence[Example]):
    """Examples of one or two columns of texts, each tokenised once, at its first use; an example has a label if `labels` is given."""

    def __init__(self, tokenizer, texts: Sequence[Sequence[str]], labels: Sequence[Label] | None, max_length: int):
        self.tokenizer, self.texts, self.labels, self.max_length = tokenizer, texts, labels, max_length
        self._made: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self.texts[0])

    @overload
    def __getitem__(self, row: int) -> Example: ...

    @overload
    def __getitem__(self, row: slice) -> list[Example]: ...

    def __getitem__(self, row: int | slice) -> Example | list[Example]:
        rows = range(len(self))[row]
        if isinstance(rows, range):
            return self.take(rows)
        return self.take([rows])[0]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.take(range(len(self))))

    def take(self, rows: Sequence[int]) -> list[Example]:
        """Return the examples of some rows."""
        missing = [row for row in dict.fromkeys(rows) if row not in self._made]
        for row, example in zip(missing, self.tokenised(missing), strict=True):
            self._made[row] = example if self.labels is None else {**example, "label": self.labels[row]}
        return [self._made[row] for row in rows]

    def tokenised(self, rows: Sequence[int]) -> list[Example]:
        """Return new examples of some rows, without labels."""
        return tokenise(self.tokenizer, [[column[row] for row in rows] for column in self.texts], self.max_length)


class TextEvaluation(EvaluationSet):
    """An evaluation set of texts; the logits of a text are [classes] or, for regression, a scalar.

    A label is a class number, a value, or a list with 0 or 1 for each class.
    """

    def __init__(self, split: str, examples: Sequence[Example], labels: Sequence[Label], metric: str, classes: int):
        super().__init__(split, examples, labels)
        self.labels = np.asarray(labels)
        self.metric, self.classes = metric, classes
        if metric == "accuracy":
            self.majority = 100 * float(np.bincount(self.labels).max()) / self.size

    def predictions(self, logits: list[Tensor]) -> Predictions:
        stacked = torch.stack(list(logits)).numpy()
        if self.metric == "spearman":
            return Predictions(self.metric, stacked, self.labels)
        if self.metric == "accuracy":
            return Predictions(self.metric, stacked.argmax(axis=-1) == self.labels)
        if self.labels.ndim == 2:
            kinds = counts.counted(stacked > 0, self.labels == 1)
            return Predictions(self.metric, kinds.sum(axis=1, keepdims=True) if self.metric == "micro_f1" else kinds)
        kinds = counts.counted(*(np.eye(self.classes, dtype=bool)[c] for c in (stacked.argmax(axis=-1), self.labels)))
        return Predictions(self.metric, kinds[:, 1:] if self.metric == "f1" else kinds)


def tokenise(tokenizer, texts: Sequence[Sequence[str]], max_length: int) -> list[Example]:
    """Return examples of one or two columns of texts, cut to `max_length` tokens; of a pair, the longer text is cut first."""
    examples: list[Example] = []
    for start in range(0, len(texts[0]), CHUNK):
        columns = shortened_columns(tokenizer, [column[start : start + CHUNK] for column in texts], max_length)
        encoded = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False)
        keys = [key for key in ("input_ids", "token_type_ids") if key in encoded]
        examples += [dict(zip(keys, values, strict=True)) for values in zip(*(encoded[k] for k in keys), strict=True)]
    return examples
