"""Running texts: the documents of a hub data set or of the user's own file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.inputs.hub import find_dataset, split_with_columns
from kprune.errors import UserError, one_line
from kprune.tables import json_rows

SUFFIXES = (".txt", ".jsonl", ".json")


@dataclass(frozen=True)
class Texts:
    """One or more documents.

    Attributes:
        source: the name of the data, for records and messages.
        documents: the texts.

    Raises:
        UserError: there is no document, or a document is no string.
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
    """The texts in one split of a hub data set.

    Attributes:
        column: the column of texts.
        hub_file: the only file to read from the hub, for a data set of hundreds of files; None reads all.
        separator: joins all rows to one document; None makes every row a document.
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
        """Return the documents of the first `rows` rows, or of all rows if it is None.

        Raises:
            UserError: the data can't be found or read, or the split or the column does not exist.
        """
        files = {self.split: self.hub_file} if self.hub_file else {}
        data = find_dataset(self.hub_id, self.config, files)
        found = split_with_columns(data, f"{self.hub_id} ({self.config})", self.split, [self.column])
        documents = list(found[self.column][:rows])
        return Texts(self.source, documents if self.separator is None else [self.separator.join(documents)])


CALIBRATION = {
    # The shard of C4 that SparseGPT, Wanda and later methods draw from.
    "c4": HubTexts("allenai/c4", "en", "train", hub_file="en/c4-train.00000-of-01024.json.gz"),
    "wikitext2": HubTexts("Salesforce/wikitext", "wikitext-2-raw-v1", "train", separator="\n\n"),
}
"""The data sets that `calibration.data` may name."""


def read_file(path: Path, option: str, lines: bool = False) -> Texts:
    """Return the documents of a file: the whole of a .txt file, or the entries `text` of the objects in a .jsonl or .json file.

    Args:
        path: the file.
        option: the option that names the file, for messages.
        lines: whether each line of a .txt file is a document.

    Raises:
        UserError: the file does not exist, is of another kind, can't be read, or has no texts.
    """
    check_file(path, option)
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".txt":
            documents = (
                content.split("\n") if lines else [content]
            )  # str.splitlines would split at other characters, too
            return Texts(str(path), [document for document in documents if document.strip()])
        rows = [entry for _, entry in json_rows(content)]
    except (OSError, ValueError) as error:
        raise UserError(f"{option}={path} cannot be read ({one_line(error)}): check its contents") from error
    for row, entry in enumerate(rows):
        if not isinstance(entry, dict) or "text" not in entry:
            raise UserError(f'{option}={path}, row {row} has no text: give lines such as {{"text": "..."}}')
    return Texts(str(path), [entry["text"] for entry in rows])


def check_file(path: Path, option: str) -> None:
    """Check that a path is an existing file with one of `SUFFIXES`; `option` names the file, for messages.

    Raises:
        UserError: the file does not exist, or it has another suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{option}={path} is no file of texts: give one that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{option}={path} does not exist: give the path of a file of texts")
