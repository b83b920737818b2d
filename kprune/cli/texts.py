"""Texts of a user's own file, read with the standard library alone."""

import codecs
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kprune.errors import UserError
from kprune.tables import csv_reader, is_blank, json_rows, separator_of

Row = tuple[int, Mapping[str, Any]]
"""The number of a row's line in its file, and its entries by column."""

TABLES = (".csv", ".tsv", ".jsonl", ".json")
NAMES = (
    "text",
    "texts",
    "sentence",
    "review",
    "content",
    "body",
    "document",
    "comment",
    "message",
    "utterance",
    "query",
)
TOGETHER = (("question", "choices"), ("question", "context"))
"""Columns that are taken both if a table has both."""


@dataclass(frozen=True)
class Texts:
    """What is read of a file.

    Attributes:
        rows: one text each, or two for a model that reads pairs; none is blank. Of multiple choice, a text and its choices.
        columns: names of the columns that the texts stood in; none for a .txt file.
        choices: whether the second column has lists of choices.
    """

    file: Path
    rows: list[tuple[str, ...]]
    columns: tuple[str, ...]
    choices: bool = False


def read_texts(file: Path, text_column: str | None = None, second_column: str | None = None) -> Texts:
    """Read the texts of a .txt, .csv, .tsv, .jsonl or .json file; rows without a text are left out.

    Args:
        text_column: of a table; if None, the one column that is named as texts are or, failing that, holds words.
            `question` and `choices` or `context` go together.
        second_column: of the second texts of pairs, or of lists of choices.

    Raises:
        UserError: there is no such file, it is of another kind, damaged, not in UTF-8 or empty, or has no such column.
    """
    if not file.is_file():
        raise UserError(
            f"{file} is a folder: give a file" if file.is_dir() else f"there is no file {file}: check its name"
        )
    kind = file.suffix.lower()
    if kind != ".txt" and kind not in TABLES:
        raise UserError(f"{file} is not a .txt, {', '.join(TABLES)} file: convert it to one of these, or rename it")
    if second_column and not text_column:
        raise UserError("--second-column needs --text-column, the column of the first texts: give both")
    content = decoded(file)
    if not content.strip():
        raise UserError(f"{file} is empty: give a file with texts")
    rows: list[tuple[str, ...]] = []
    columns: tuple[str, ...] = ()
    if kind == ".txt":
        if text_column:
            raise UserError(f"{file} has no columns: leave --text-column out, or give a .csv or .jsonl file")
        lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        rows = [(line.strip(),) for line in lines if line.strip()]
    else:
        asked = [_name(column) for column in (text_column, second_column) if column]
        separated = kind in (".csv", ".tsv")
        table = list(_csv_rows(file, content, asked) if separated else _json_rows(file, content))
        if not table:
            raise UserError(f"{file} has a header and no rows: give a file with texts")
        columns = _columns(file, table, asked)
        choices = len(columns) == 2 and any(isinstance(row.get(columns[1]), (list, dict)) for _, row in table)
        first, *second = columns
        read = _choices if choices else _second
        entries = ((_text(file, row, first), *read(file, row, second)) for row in table)
        rows = [texts for texts in entries if all(texts)]
        if not rows:
            raise UserError(f"{file} has no text in column {' and '.join(columns)}: choose another with --text-column")
        return Texts(file, rows, columns, choices)
    return Texts(file, rows, columns)


def decoded(file: Path) -> str:
    """Return a file's text, UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises:
        UserError: the file is in another encoding, not text, or not readable.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}): check its permissions") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line}, is not UTF-8 (byte 0x{content[error.start]:02x}): convert the file, such as with "
            f"iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in text:
        raise UserError(f"{file} holds zero bytes, which no text does: give a text file in UTF-8")
    return text


def _csv_rows(file: Path, content: str, asked: Sequence[str]) -> Iterator[Row]:
    try:
        separator = separator_of(content, asked) or ("\t" if file.suffix.lower() == ".tsv" else ",")
    except ValueError as error:
        raise UserError(f"{file} can't be split into columns ({error}): mend its header") from error
    reader = csv_reader(content, separator)
    rows = (row for row in reader if not is_blank(row))
    try:
        names = [_name(name) for name in next(rows, [])]
        if len(set(names)) < len(names):
            raise UserError(f"{file} has two columns of one name: its header is {', '.join(names)}")
        for values in rows:
            if len(values) > len(names):
                raise UserError(
                    f"{file}, line {reader.line_num}, has {len(values)} entries, the header {len(names)}: put texts that "
                    f"contain '{separator}' in double quotes"
                )
            yield reader.line_num, dict(zip(names, values, strict=False))
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}, is not CSV ({error}): mend its quotes") from error


def _json_rows(file: Path, content: str) -> Iterator[Row]:
    try:
        entries = json_rows(content)
    except ValueError as error:
        raise UserError(f"{file}, {error}") from error
    for number, entry in entries:
        if isinstance(entry, str):
            yield number, {"text": entry}
        elif isinstance(entry, dict):
            yield number, {_name(name): value for name, value in entry.items()}
        else:
            raise UserError(
                f'{file}, row {number}, is a {type(entry).__name__}: give an object in each line, such as {{"text": "..."}}'
            )


def _name(written: str) -> str:
    """Return a column's name in one line, as messages are."""
    return " ".join(filter(None, map(str.strip, written.splitlines())))


def _columns(file: Path, table: Sequence[Row], asked: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that are asked for, after a check; if none is, the columns that hold texts by name or content."""
    present = list(dict.fromkeys(name for _, row in table for name in row))
    listed = ", ".join(present)
    for column in asked:
        if column not in present:
            raise UserError(f"{file} has no column '{column}': it has {listed}")
    if asked:
        return tuple(asked)
    of = {name.lower(): name for name in present}
    if together := next((columns for columns in TOGETHER if set(columns) <= set(of)), None):
        return tuple(of[column] for column in together)
    named = [name for name in present if name.lower() in NAMES]
    wordy = [name for name in present if _is_wordy(table, name)]
    found = named if named else wordy
    if len(found) != 1:
        raise UserError(
            f"{file} has {len(found) or 'no'} columns that may be the texts: give --text-column, and --second-column for "
            f"pairs; it has {listed}"
        )
    return (found[0],)


def _is_wordy(table: Sequence[Row], column: str) -> bool:
    """Tell whether a column holds strings, of which one at least is no number."""
    values = [row[column] for _, row in table if row.get(column) not in (None, "")]
    return all(isinstance(value, str) for value in values) and not all(map(_is_number, values))


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _text(file: Path, row: Row, column: str) -> str:
    number, entries = row
    value = entries.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"{file}, row {number}: column {column} holds a {type(value).__name__}, no text: choose another with --text-column"
        )
    return value.strip()


def _second(file: Path, row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the second text of a pair; () if there is no second column."""
    return tuple(_text(file, row, column) for column in columns)


def _choices(file: Path, row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the choices of a text: a list or, as in ARC, the list `text` of an object.

    Raises:
        UserError: they are no list of two texts or more.
    """
    number, entries = row
    found = entries.get(columns[0])
    found = found.get("text") if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(choice, str) and choice.strip() for choice in found):
        raise UserError(
            f"{file}, row {number}: column {columns[0]} is {str(found)[:40]!r}, not a list of texts: mend it or remove the row"
        )
    if len(found) < 2:
        raise UserError(f"{file}, row {number}, has {len(found)} choice: give two or more, or remove the row")
    return tuple(choice.strip() for choice in found)
