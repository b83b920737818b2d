"""The user's own labelled texts, from CSV, JSON-lines or parquet files."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.tasks.text import Table, TextTask
from kprune.errors import UserError, one_line

HELD_OUT = 0.2
SPLIT_SEED = 0


def _read_json_lines(path: Path) -> pd.DataFrame:
    """Read line by line: pandas' own reader turns columns with certain names into dates."""
    with path.open(encoding="utf-8") as lines:
        return pd.DataFrame([json.loads(line) for line in lines if line.strip()])


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    # As text, so that "NA" stays a word and the label "01" a name.
    ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": pd.read_parquet,
}
MISSING = ("", "nan")


class CustomTask(TextTask):
    """Classification or regression on files of one's own.

    Args:
        train_file: CSV, JSON-lines (.jsonl, .json) or parquet.
        evaluation_file: the same; None holds out a seeded fifth of `train_file`.
        text: one or two columns.
        label: the column of class names, class numbers or values.
        label_names: the classes in the order of the checkpoint's outputs; None takes the values that occur in
            `train_file`, sorted (as numbers, if all are).
    """

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
    ):
        metric = "spearman" if problem == "regression" else "accuracy"
        super().__init__(name, problem, metric, max_length, average_length, batch_size)
        if not train_file:
            raise UserError("this task reads your own file: give task.train_file=FILE (.csv, .jsonl or .parquet)")
        self.text = [text] if isinstance(text, str) else list(text)
        if not 1 <= len(self.text) <= 2:
            raise UserError(f"task.text={self.text} names {len(self.text)} columns: give one, or two for pairs")
        self.train_file = Path(train_file).expanduser()
        self.evaluation_file = Path(evaluation_file).expanduser() if evaluation_file else None
        self.label = label
        self._label_names = label_names

    @cached_property
    def label_names(self) -> list[str]:
        if self.regression:
            return ["score"]
        if self._label_names:
            return [str(name) for name in self._label_names]
        frame = self._train_frame
        names = {_class_name(label, row, self.train_file) for row, label in frame[self.label].items()}
        if len(names) < 2:
            raise UserError(
                f"{self.train_file}, column {self.label}: all labels are {names.pop()}; "
                f"a classifier needs two classes or more"
            )
        if all(name.isdecimal() for name in names):
            return sorted(names, key=lambda name: (int(name), name))
        return sorted(names)

    def training_table(self) -> Table:
        return self._table(self.train_file, self._frames[0])

    def evaluation_table(self) -> Table:
        return self._table(self.evaluation_file or self.train_file, self._frames[1])

    @property
    def evaluation_split(self) -> str:
        if self.evaluation_file:
            return self.evaluation_file.name
        return f"{HELD_OUT:.0%} of {self.train_file.name}, seed {SPLIT_SEED}"

    @cached_property
    def _train_frame(self) -> pd.DataFrame:
        return read_table(self.train_file, [*self.text, self.label])

    @cached_property
    def _frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return training and evaluation rows; their index counts the rows of the file."""
        train = self._train_frame
        if self.evaluation_file:
            return train, read_table(self.evaluation_file, [*self.text, self.label])
        held_out = round(HELD_OUT * len(train))
        if held_out == 0:
            raise UserError(
                f"{self.train_file} has too few rows ({len(train)}) to hold some out: give task.evaluation_file"
            )
        print(
            f"no task.evaluation_file: scores are on {held_out} rows held out of {self.train_file}, seed {SPLIT_SEED}"
        )
        order = np.random.default_rng(SPLIT_SEED).permutation(len(train))
        return train.iloc[np.sort(order[held_out:])], train.iloc[np.sort(order[:held_out])]

    def _table(self, path: Path, frame: pd.DataFrame) -> Table:
        labels = [
            _value(label, row, path) if self.regression else self._class_number(label, row, path)
            for row, label in frame[self.label].items()
        ]
        return Table(str(path), [list(frame[column]) for column in self.text], labels, list(frame.index))

    def _class_number(self, label, row: int, path: Path) -> int:
        name = _class_name(label, row, path)
        if name in self._numbers:
            return self._numbers[name]
        if self._label_names and name.isdigit() and int(name) < self.num_labels:
            return int(name)
        raise UserError(
            f"{path}, row {row}: label {name} is none of the classes {', '.join(self.label_names)}; "
            f"mend it or list all classes in task.label_names"
        )

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.label_names)}


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Return the rows of a CSV, JSON-lines or parquet file, the index counting them from 1, without a CSV file's header.

    Raises:
        UserError: no such file, of another kind, unreadable, empty, or without one of `columns`.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: check task.train_file and task.evaluation_file")
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path} is none of {', '.join(READERS)}: convert it to one of these")
    try:
        frame = READERS[path.suffix.lower()](path)
    except Exception as error:  # pandas and pyarrow raise many types; an empty CSV is one of them
        reason = "empty" if path.stat().st_size == 0 else one_line(error)
        raise UserError(f"{path} cannot be read as {path.suffix[1:]} ({reason}): check its contents") from error
    for column in columns:
        if column not in frame.columns:
            raise UserError(
                f"{path} has no column {column}: it has {', '.join(map(str, frame.columns))}; "
                f"set task.text and task.label"
            )
    if frame.empty:
        raise UserError(f"{path} has no rows: give a file with some")
    return frame.set_axis(range(1, len(frame) + 1))


def _missing(label, row: int, path: Path) -> None:
    if label is None or label is pd.NA or str(label).strip().lower() in MISSING:
        raise UserError(f"{path}, row {row}: the label is missing; fill it in or remove the row")


def _class_name(label, row: int, path: Path) -> str:
    """Return a label as text; 1.0, which a file makes of 1, is 1. A negative number marks unlabelled rows by convention."""
    _missing(label, row, path)
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        label = int(label)
    name = str(label).strip()
    if name.startswith("-") and name[1:].isdigit():
        raise UserError(
            f"{path}, row {row}: label {name} is negative, which marks rows without a label; "
            f"number the classes from 0 or name them"
        )
    return name


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
