"""Measurements that are not cells, as CSV files: of the benchmark, of latency, on held-out examples."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.results import write_whole
from kprune.errors import UserError


def read(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a file, none where there is no file.

    Raises:
        UserError: the file has other columns.
    """
    if not file.is_file():
        return []
    with file.open(newline="") as content:
        rows = list(csv.DictReader(content))
    if any(set(row) != set(columns) for row in rows):
        raise UserError(f"{file} has other columns than this version writes: give another --output or remove it")
    return rows


def write(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all rows, whole or not at all; floats with six digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.getvalue().encode())
