"""CSV files of measurements that are not cells: the benchmark, latencies, scores on held-out examples."""

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
    """Make the folder of a file and check the rows that the file has, before a long measurement starts.

    Args:
        file, columns, later: as in `read`.

    Raises:
        UserError: the folder is not writable, a folder stands at the path of the file, or the file is damaged or has other columns.
    """
    make_folder(file)
    read(file, columns, later)


def make_folder(file: Path) -> None:
    """Make the folder of a file that will be written.

    Raises:
        UserError: the folder is not writable, or a folder stands at the path of the file.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.is_dir():
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        raise UserError(f"{file} can't be written ({error.strerror}): give another {OPTION}") from error


def read(file: Path, columns: Sequence[str], later: Collection[str] = ()) -> list[dict[str, str]]:
    """Return the rows of a file; an empty list if the file does not exist.

    Args:
        file: a CSV file.
        columns: all columns that this version writes.
        later: the columns that older files lack; rows of these files get "" there.

    Raises:
        UserError: the file is damaged or has other columns.
    """
    if not file.is_file():
        return []
    header, rows = read_all(file, f"give another {OPTION} or remove it")
    if header and {*header, *later} != set(columns):
        raise UserError(f"{file} has other columns than this version writes: give another {OPTION} or remove it")
    return [dict.fromkeys(later, "") | row for row in rows]


def read_all(file: Path, remedy: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the rows of a CSV file; an empty file has no columns.

    Raises:
        UserError: the file is damaged or not readable; the message ends with `remedy`.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as content:  # spreadsheets put a mark before the first column
            reader = csv.DictReader(content, strict=True)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged or not readable: {remedy}") from error
    # The reader puts surplus values of a row under the key None, and fills missing values with None.
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{file} is damaged, as a row has more or fewer values than there are columns: {remedy}")
    return header, rows


def write(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file with these rows, completely or not at all; floats get six significant digits."""
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
    """Write rows to a file; a row of the file with the same values in the columns `key` is replaced.

    Args:
        file: a CSV file; it may be missing.
        columns: all columns that this version writes.
        key: the columns that identify a row.
        rows: the new rows.
        unsaid: the columns that older files lack, with the value that these rows are taken to have.

    Raises:
        UserError: the folder is not writable, the disk is full, or the file is damaged or has other columns.
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
