"""The user's own files: a file to train on, and a file to score on; without the second, a part of the first is held out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kprune.errors import UserError

HELD_OUT = 0.2
SPLIT_SEED = 0


def held_out_split(file: Path) -> str:
    """Return the name of the held-out part of a file, for the record."""
    return f"{HELD_OUT:.0%} of {file.name}, seed {SPLIT_SEED}"


def held_out_rows(file: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the rows to train on and of the held-out rows, each sorted.

    Args:
        file: the file, for the message.
        rows: number of rows in the file.

    Raises:
        UserError: the rows are too few to hold one out.
    """
    held_out = round(HELD_OUT * rows)
    if held_out == 0:
        raise UserError(f"{file} has too few rows ({rows}) to hold some out: give task.evaluation_file")
    order = np.random.default_rng(SPLIT_SEED).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


class OwnFiles(ABC):
    """Reading the user's own files; a base class beside `Task`."""

    train_file: Path
    evaluation_file: Path | None

    def take_files(self, train_file: str | None, evaluation_file: str | None, form: str) -> None:
        """Store the names of the files; without `evaluation_file`, a seeded fifth of `train_file` is held out.

        Args:
            train_file: the file to train on.
            evaluation_file: the file to score on, or None.
            form: the possible kinds of a file or an example of a row, for the message.

        Raises:
            UserError: `train_file` is not given.
        """
        if not train_file:
            raise UserError(f"this task reads your own file: give task.train_file=FILE ({form})")
        self.train_file = Path(train_file).expanduser()
        self.evaluation_file = Path(evaluation_file).expanduser() if evaluation_file else None
        self._kept: dict[Path, Sequence[Any]] = {}

    @property
    def evaluation_split(self) -> str:
        """Return the name of the evaluation data, for the record."""
        return self.evaluation_file.name if self.evaluation_file else held_out_split(self.train_file)

    @abstractmethod
    def read(self, file: Path) -> Sequence[Any]:
        """Return the rows of a file, after checking them.

        Raises:
            UserError: the file or a row is wrong.
        """

    def training_rows(self) -> list[Any]:
        """Return the rows to train on."""
        rows = self._once_read(self.train_file)
        return list(rows) if self.evaluation_file else [rows[row] for row in self._parts(rows)[0]]

    def evaluation_rows(self) -> list[Any]:
        """Return the rows to score on."""
        if self.evaluation_file:
            return list(self._once_read(self.evaluation_file))
        rows = self._once_read(self.train_file)
        return [rows[row] for row in self._parts(rows)[1]]

    def _parts(self, rows: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        return held_out_rows(self.train_file, len(rows))

    def _once_read(self, file: Path) -> Sequence[Any]:
        if file not in self._kept:
            self._kept[file] = self.read(file)
        return self._kept[file]
