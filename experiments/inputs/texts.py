"""Running texts: the documents of a data set of the hub, or of a file of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.inputs.hub import find_dataset, split_with_columns
from kprune.errors import UserError, one_line
from kprune.tables import json_rows

SUFFIXES = (".txt", ".jsonl", ".json")


@dataclass(frozen=True)
class Texts:
    """Documents, at least one.

    Attributes:
        source: names the data, in records and messages.
        documents: a text each.
    """

    source: str
    documents: Sequence[str]

    def __post_init__(self):
        if not self.documents:
            raise UserError(f"{self.source} has no texts: give it some, or other data")
        for row, text in enumerate(self.documents):
            if not isinstance(text, str):
                raise UserError(f"{self.source}, row {row}: {text!r:.80} is no text; mend it or remove the row")


@dataclass(frozen=True)
class HubTexts:
    """One split of a data set.

    Attributes:
        hub_file: the one file of the split that is read from the hub, of a data set that has hundreds.
        separator: joins all rows to one text; None: every row is a document of its own.
    """

    hub_id: str
    config: str
    split: str
    column: str = "text"
    hub_file: str | None = None
    separator: str | None = None

    @property
    def source(self) -> str:
        return f"{self.hub_id} ({self.config}, {self.split})"

    def read(self, rows: int | None = None) -> Texts:
        """Return the documents, of the first so many rows if `rows` is given.

        Raises:
            UserError: the data are not to be had, or there is no such split or column.
        """
        files = {self.split: self.hub_file} if self.hub_file else {}
        data = find_dataset(self.hub_id, self.config, files)
        found = split_with_columns(data, f"{self.hub_id} ({self.config})", self.split, [self.column])
        documents = list(found[self.column][:rows])
        return Texts(self.source, documents if self.separator is None else [self.separator.join(documents)])


CALIBRATION = {
    # The shard of C4 that SparseGPT, Wanda and those after them draw from.
    "c4": HubTexts("allenai/c4", "en", "train", hub_file="en/c4-train.00000-of-01024.json.gz"),
    "wikitext2": HubTexts("Salesforce/wikitext", "wikitext-2-raw-v1", "train", separator="\n\n"),
}
"""The data sets of `calibration.data`, by name."""


def read_file(path: Path, option: str, lines: bool = False) -> Texts:
    """Return the documents of a file: one of a .txt file, and one a line or entry of a .jsonl or .json file, under `text`.

    Args:
        option: that names the file, for messages.
        lines: each line of a .txt file is a document.

    Raises:
        UserError: no such file, of another kind, unreadable, or without texts.
    """
    check_file(path, option)
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".txt":
            documents = content.split("\n") if lines else [content]  # splitlines splits inside a text, too
            return Texts(str(path), [document for document in documents if document.strip()])
        rows = [entry for _, entry in json_rows(content)]
    except (OSError, ValueError) as error:
        raise UserError(f"{option}={path} cannot be read ({one_line(error)}): check its contents") from error
    for row, entry in enumerate(rows):
        if not isinstance(entry, dict) or "text" not in entry:
            raise UserError(f'{option}={path}, row {row} has no text: give lines such as {{"text": "..."}}')
    return Texts(str(path), [entry["text"] for entry in rows])


def check_file(path: Path, option: str) -> None:
    """Check that a path is that of a file of texts.

    Raises:
        UserError: there is no such file, or its suffix is another.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{option}={path} is no file of texts: give one that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{option}={path} does not exist: give the path of a file of texts")
