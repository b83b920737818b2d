"""Measurements that are not cells, as CSV files: of the benchmark, of latency, on held-out examples."""

import csv
import io
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.store.locks import locked_file
from kprune.errors import UserError
from kprune.files import write_whole

OPTION = "--output FILE"


def make_room(file: Path, columns: Sequence[str], later: Collection[str] = ()) -> None:
    """Make the folder of a file that is to be written, before what is long is measured; arguments as of `read`.

    Raises:
        UserError: the folder is not writable, or there is something else at the file's place.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.is_dir():
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        raise UserError(f"{file} can't be written ({error.strerror}): give another {OPTION}") from error
    read(file, columns, later)


def read(file: Path, columns: Sequence[str], later: Collection[str] = ()) -> list[dict[str, str]]:
    """Return the rows of a file; none if there is no file.

    Args:
        later: those of the columns that older files lack; empty there.

    Raises:
        UserError: the file is damaged or has other columns.
    """
    if not file.is_file():
        return []
    rows = [dict.fromkeys(later, "") | row for row in read_all(file, f"give another {OPTION} or remove it")]
    if any(set(row) != set(columns) for row in rows):
        raise UserError(f"{file} has other columns than this version writes: give another {OPTION} or remove it")
    return rows


def read_all(file: Path, remedy: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file with the columns that it has.

    Raises:
        UserError: the file is damaged; the remedy is named.
    """
    try:
        with file.open(newline="") as content:
            return list(csv.DictReader(content, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged or not readable: {remedy}") from error


def write(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all rows, whole or not at all; floats with six digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: as_text(value) for column, value in row.items()} for row in rows)
    write_whole(
        file, lambda temporary: temporary.write_text(text.getvalue()), f"free the disk or give another {OPTION}"
    )


def put(
    file: Path,
    columns: Sequence[str],
    key: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    unsaid: Mapping[str, Any] | None = None,
) -> None:
    """Write rows in the place of those that the file has with the same values of the columns `key`.

    Args:
        unsaid: columns that older files lack, with the value that their rows count as having.
    """
    usual = {column: as_text(value) for column, value in (unsaid or {}).items()}
    keys = {tuple(as_text(row[column]) for column in key) for row in rows}
    with locked_file(file, f"give another {OPTION}"):
        others = [
            row
            for row in read(file, columns, usual)
            if tuple(row[column] or usual.get(column, "") for column in key) not in keys
        ]
        write(file, columns, [*others, *rows])


def as_text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
