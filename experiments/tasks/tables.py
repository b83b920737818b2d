"""Tables in the user's own files: CSV with any separator, JSON lines, a JSON array or parquet, in various encodings."""

import codecs
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kprune.errors import UserError, one_line
from kprune.tables import json_rows, separator_of

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, because this mark begins with that of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
KNOWN = ", ".join(SUFFIXES)
SAMPLE = 4096
"""Number of first bytes of a file in which a zero byte shows that the file is UTF-16 without a mark."""


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a file; the index counts them from 1, and the header of a CSV file is not counted.

    Blanks around the names of columns are removed.

    Raises:
        UserError: the file does not exist, is not one of `SUFFIXES`, can't be read, has no rows, or does not have each of
            `columns` exactly once.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: check task.train_file and task.evaluation_file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} is none of {KNOWN}: convert it to one of these")
    try:
        if suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            text = decoded(path)
            frame = read_json(text) if suffix.startswith(".json") else read_csv(text, columns)
    except Exception as error:  # pandas and pyarrow raise many types; an empty CSV is one of them
        reason = "empty" if path.stat().st_size == 0 else one_line(error)
        raise UserError(f"{path} cannot be read as {path.suffix[1:]} ({reason}): check its contents") from error
    if frame.empty:
        raise UserError(f"{path} has no rows: give a file with some")
    frame.columns = [str(column).strip() for column in frame.columns]
    for column in columns:
        found = list(frame.columns).count(column)
        if found != 1:
            raise UserError(
                f"{path} has {'no column' if not found else f'{found} columns'} {column}: it has "
                f"{' '.join(', '.join(frame.columns).split())}; set task.text and the other columns of the task"
            )
    return frame.set_axis(range(1, len(frame) + 1))


def plain(values: Any) -> Any:
    """Return a value with a numpy array, as parquet files have, turned into a list; other values are returned unchanged."""
    return values.tolist() if isinstance(values, np.ndarray) else values


def decoded(path: Path) -> str:
    """Return the text of a file.

    The encoding is that of its byte order mark, else UTF-16 if there are zero bytes, else UTF-8, else Windows-1252 or latin-1; a
    printed line tells of the last two.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:SAMPLE]:
        # In UTF-16, every second byte of Latin text is zero: the first byte of each pair in big-endian order, else the second.
        encoding = "utf-16-be" if content[:SAMPLE:2].count(0) > content[1:SAMPLE:2].count(0) else "utf-16-le"
    if encoding:
        return content.decode(encoding)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        print(f"{path} is not UTF-8: read as Windows-1252 (latin-1); convert it if it is something else")
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_json(text: str) -> pd.DataFrame:
    """Read a JSON array of objects, or one object in each line.

    The reader of pandas is not used because it turns columns with certain names into dates.

    Raises:
        ValueError: a row is no object, or `json_rows` can't read the text.
    """
    rows = json_rows(text)
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is {str(row)[:40]!r}, not an object with the columns' names")
    return pd.DataFrame([row for _, row in rows])


def read_csv(text: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV text with all values as text, so that "NA" stays a word and the label "01" stays a name.

    Args:
        text: the content of the file.
        columns: names of columns in the header, which help to find the separator.

    Raises:
        ValueError: pandas can't parse the text.
        pandas.errors.ParserWarning: a row has more entries than the header.
    """
    separator = separator_of(text, columns) or ","
    header = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
    with warnings.catch_warnings(
        action="error", category=pd.errors.ParserWarning
    ):  # a row with more entries than names
        return pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            index_col=False,
            # If blanks follow the separators in the header, they are not part of the values, and a quote may follow a blank.
            skipinitialspace=f"{separator} " in header,
        )
