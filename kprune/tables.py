"""Tables as text: what separates the columns of CSV, and the rows of JSON. Needs the standard library alone."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

from kprune.errors import one_line

SEPARATORS = (",", ";", "\t", "|")
SAMPLE = 1000
"""Rows by which the separator is found."""


def csv_reader(content: str, separator: str) -> Any:
    """Return the `csv.reader` of a table, whatever ends its lines."""
    csv.field_size_limit(sys.maxsize)  # a text may be long: the standard limit is 131,072 characters
    return csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)


def is_blank(row: Sequence[str]) -> bool:
    """Tell whether a row has no entry but blanks."""
    return not any(entry.strip() for entry in row)


def separator_of(content: str, columns: Sequence[str] = ()) -> str | None:
    """Return the sign that separates the columns of a table with a header; None if it has one column.

    It is the sign by which the header has the most of `columns`; of several, the sign by which the most rows have as many entries as
    the header.

    Raises:
        ValueError: two signs are equal in both respects, or every row has fewer entries than the header.
    """
    tables = {sign: _sample(content, sign) for sign in SEPARATORS}
    ranks = {sign: _rank(table, columns) for sign, table in tables.items() if table and len(table[0]) > 1}
    if not ranks:
        return None
    best = max(ranks, key=lambda sign: ranks[sign])
    header, *rows = tables[best]
    if rows and max(map(len, rows)) < len(header):
        raise ValueError(f"every row has fewer entries than the header, {len(header)}, by the separator {best!r}")
    equals = [sign for sign in ranks if ranks[sign] == ranks[best]]
    if rows and len(equals) > 1:
        raise ValueError(f"its header has {' and '.join(map(repr, equals))}, either of which may separate them")
    return best


def _sample(content: str, separator: str) -> list[list[str]]:
    """Return the header and the first rows, without blank ones, up to one that is no CSV."""
    sample: list[list[str]] = []
    try:
        for row in islice(csv_reader(content, separator), SAMPLE):
            if not is_blank(row):
                sample.append(row)
    except csv.Error:  # the separator is another, or the reader of the whole table will say it
        pass
    return sample


def _rank(table: Sequence[Sequence[str]], columns: Sequence[str]) -> tuple[int, int]:
    header, *rows = table
    names = [name.strip() for name in header]
    return sum(column in names for column in columns), sum(len(row) == len(header) for row in rows)


def json_rows(content: str) -> list[tuple[int, Any]]:
    """Return the entries of an array, counted from 1, or of JSON lines, by the number of the line.

    Raises:
        ValueError: it is neither, or a text has half a character.
    """
    if content.lstrip().startswith("["):
        rows = list(enumerate(_parsed(1, content), 1))
    else:
        lines = enumerate(content.split("\n"), 1)  # splitlines splits at characters that stand inside a text, too
        rows = [(number, _parsed(number, line)) for number, line in lines if line.strip()]
    if "\\ud" in content or "\\uD" in content:  # without them there is none, and to look takes as long as to read
        for number, entry in rows:
            _check_characters(number, entry)
    return rows


def _parsed(number: int, content: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        line = number + getattr(error, "lineno", 1) - 1
        reason = (
            "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", None) or one_line(error)
        )
        raise ValueError(f"line {line}, is not JSON ({reason}): give an object in each line") from error


def _check_characters(number: int, entry: Any) -> None:
    """Check that every text of an entry can be encoded; JSON has characters beyond 0xffff in two halves, which a cut parts.

    Raises:
        ValueError: one can't.
    """
    try:
        json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"row {number}, has half a character, {half}: mend it or remove the row") from error
