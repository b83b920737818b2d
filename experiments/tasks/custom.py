"""The user's own labelled texts, from CSV, JSON or parquet files."""

import re
from collections.abc import Hashable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.tasks.labels import Places, shown
from experiments.tasks.own_files import SPLIT_SEED, OwnFiles, held_out_rows
from experiments.tasks.tables import KNOWN, read_table
from experiments.tasks.text import Table, TextTask
from kprune.errors import UserError

MISSING = ("", "nan")


class CustomTask(OwnFiles, TextTask):
    """Classification (with one or several labels for a text) or regression on the user's own files.

    Args:
        train_file: CSV (.csv, .tsv), JSON (.jsonl, .json) or parquet.
        evaluation_file: a file of one of these kinds; None holds out a seeded fifth of `train_file`.
        text: the column of texts, or two columns for pairs.
        label: the column of class names, class numbers or values; for several labels, of lists of class names.
        label_names: the classes in the order of the checkpoint's outputs; None takes the labels that occur in `train_file`,
            sorted as numbers if all are whole numbers, else as text.
    """

    problems = ("classification", "multi_label", "regression")

    def __init__(
        self,
        name: str,
        train_file: str | None,
        evaluation_file: str | None,
        text: list[str] | str,
        label: str,
        problem: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        label_names: list[str] | None = None,
        metric: str | None = None,
    ):
        super().__init__(name, problem, metric, max_length, average_length, batch_size)
        self.take_files(train_file, evaluation_file, KNOWN)
        self.text = [text] if isinstance(text, str) else list(text)
        if not 1 <= len(self.text) <= 2:
            raise UserError(f"task.text={self.text} names {len(self.text)} columns: give one, or two for pairs")
        self.label = label
        self._label_names = label_names

    @cached_property
    def label_names(self) -> list[str]:
        if self.regression:
            return ["score"]
        if self._label_names:
            return [str(name) for name in self._label_names]
        first_rows: dict[str, int] = {}
        column = self._once_read(self.train_file)[self.label]
        if self.several:
            column = column.explode().dropna()  # a text may have no label
        for (_, label), row in _first_rows(column).items():
            first_rows.setdefault(_text(label, row, self.train_file), row)
        numbers = all(map(_is_whole, first_rows))
        names = sorted(first_rows, key=lambda name: (int(name) if numbers else 0, name))
        self._check_names(names, first_rows)
        return names

    def _check_names(self, names: list[str], first_rows: dict[str, int]) -> None:
        """Check that the labels of a file are names of classes.

        Args:
            names: the different labels.
            first_rows: the first row of each label.

        Raises:
            UserError: there are fewer than two labels, or a label is a negative number or a number that is not whole.
        """
        if not names:
            raise UserError(f"{self.train_file}, column {self.label}: no row has a label; give some that have")
        if len(names) < 2:
            raise UserError(
                f"{self.train_file}, column {self.label}: all labels are {names[0]}; "
                f"a classifier needs two classes or more"
            )
        for name in names:
            where = f"{self.train_file}, row {first_rows[name]}: label {name}"
            # By convention, a negative number marks a row without a label; the exception are the two classes -1 and 1.
            if _is_whole(name) and int(name) < 0 and names != ["-1", "1"]:
                raise UserError(
                    f"{where} is negative, which marks rows without a label; remove them or, if it is a class, list all: "
                    f"task.label_names=[{','.join(names[:10])}]"
                )
            if _is_number(name) and not _is_whole(name):
                raise UserError(
                    f"{where} is a value, not a class: set task.problem=regression, or list the classes in task.label_names"
                )

    def training_table(self) -> Table:
        frame = self._once_read(self.train_file) if self.evaluation_file else self._frames[0]
        return self._table(self.train_file, frame)

    def evaluation_table(self) -> Table:
        if self.evaluation_file:
            return self._table(self.evaluation_file, self._once_read(self.evaluation_file))
        return self._table(self.train_file, self._frames[1])

    def read(self, path: Path) -> pd.DataFrame:
        """Return the rows of a file; with several labels for a text, the label of a row is a list.

        Raises:
            UserError: `read_table` can't read the file, a label is a list in a task with one label for a text, or a label is no
                list in a task with several.
        """
        frame = read_table(path, [*self.text, self.label])
        for row, label in frame[self.label].items():
            if isinstance(label, list | np.ndarray) != self.several:
                remedy = (
                    "give lists of names, in JSON lines or parquet, or set task.problem=classification"
                    if self.several
                    else "set task.problem=multi_label, or give one label"
                )
                raise UserError(f"{path}, row {row}: label {label!r} is {'no' if self.several else 'a'} list: {remedy}")
        return frame

    @cached_property
    def _frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the rows of the training file to train on, and the held-out rows; the index of a row is its number in the file."""
        train = self._once_read(self.train_file)
        trained, held_out = held_out_rows(self.train_file, len(train))
        print(
            f"no task.evaluation_file: scores are on {len(held_out)} rows held out of {self.train_file}, seed {SPLIT_SEED}"
        )
        return train.iloc[trained], train.iloc[held_out]

    def _table(self, path: Path, frame: pd.DataFrame) -> Table:
        texts, rows = [list(frame[column]) for column in self.text], list(frame.index)
        if self.several:
            several = [self._zeros_and_ones(names, row, path) for row, names in frame[self.label].items()]
            return Table(str(path), texts, several, rows)
        column, convert = frame[self.label], _value if self.regression else self._class_number
        known = {key: convert(key[1], row, path) for key, row in _first_rows(column).items()}
        labels = [known[key] for key in map(_key, column)]
        return Table(str(path), texts, labels, rows)

    def _zeros_and_ones(self, names: Iterable, row: int, path: Path) -> list[int]:
        """Return for each class 1 if it is among the names, else 0.

        Raises:
            UserError: a name is no class, or a class is named twice.
        """
        there = [self._class_number(name, row, path) for name in names]
        if len(set(there)) < len(there):
            raise UserError(
                f"{path}, row {row}: labels {str(list(names))[:40]} name one twice: give the names of the text's own labels, "
                "not a zero or one for each label"
            )
        return [int(place in there) for place in range(self.num_labels)]

    def _class_number(self, label, row: int, path: Path) -> int:
        name = _text(label, row, path)
        place = self._places.of(name)
        if place is not None:
            return place
        counted = self._label_names and not any(map(_is_whole, self.label_names))  # the data may have class numbers
        if counted and name.isdecimal() and int(name) < len(self.label_names):
            return int(name)
        raise UserError(
            f"{path}, row {row}: label {name} is none of the classes {shown(self.label_names)}; "
            f"mend it or list all classes in task.label_names"
        )

    @cached_property
    def _places(self) -> Places:
        return Places(self.label_names)


def _key(label) -> tuple[type, Hashable]:
    """Return a key that is the same for equal labels; it differs for True and 1."""
    return type(label), label if isinstance(label, Hashable) else str(label)


def _first_rows(column: pd.Series) -> dict[tuple[type, Hashable], int]:
    """Return the first row of each different label, so that only the few different labels need to be checked."""
    first: dict[tuple[type, Hashable], int] = {}
    for row, label in zip(column.index, column, strict=True):
        first.setdefault(_key(label), row)
    return first


def _missing(label, row: int, path: Path) -> None:
    if label is None or label is pd.NA or str(label).strip().lower() in MISSING:
        raise UserError(f"{path}, row {row}: the label is missing; fill it in or remove the row")


def _text(label, row: int, path: Path) -> str:
    """Return a label as text; 1.0 becomes 1, because a table with missing values turns 1 into 1.0."""
    _missing(label, row, path)
    name = str(label).strip()
    whole = re.fullmatch(r"(-?\d+)\.0+", name, re.ASCII)
    return whole[1] if whole else name


def _is_number(name: str) -> bool:
    return bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", name, re.ASCII | re.IGNORECASE))


def _is_whole(name: str) -> bool:
    return bool(re.fullmatch(r"-?\d+", name, re.ASCII))


def _value(label, row: int, path: Path) -> float:
    _missing(label, row, path)
    try:
        value = float(label)
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(
            f"{path}, row {row}: label {label!r} is no finite number; mend it or set task.problem=classification"
        )
    return value
