"""Tasks on tagged words, such as named entities, on a hub data set or the user's own files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from experiments.scoring.entities import counts_of, is_tag
from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet, Task
from experiments.tasks.hub_data import HubData
from experiments.tasks.labels import shown
from experiments.tasks.own_files import OwnFiles
from experiments.tasks.tables import plain, read_table
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import TokenClassification
from kprune.objectives.base import IGNORED


@dataclass(frozen=True)
class Sentence:
    """The words of a sentence with a tag for each word; `row` is the name of its row, for messages.

    Raises:
        UserError: words or tags are no lists of texts, differ in number or are empty, or a tag is neither O nor B-KIND or I-KIND.
    """

    words: Sequence[str]
    tags: Sequence[str]
    row: str

    def __post_init__(self):
        for what, values in (("tokens", self.words), ("tags", self.tags)):
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise UserError(
                    f"{self.row}: {what} are {str(values)[:40]!r}, no list of texts: mend it or remove the row"
                )
        if len(self.words) != len(self.tags):
            raise UserError(
                f"{self.row} has {len(self.words)} tokens and {len(self.tags)} tags: mend it or remove the row"
            )
        if not self.words:
            raise UserError(f"{self.row} has no tokens: remove the row")
        for tag in self.tags:
            if not is_tag(tag):
                raise UserError(f"{self.row}: tag {tag[:40]!r} is neither O nor B- or I- before a kind: mend it")


class TokenTask(Task):
    """Tagging of words, scored by the F1 of entities; a subclass reads the sentences."""

    metric = "entity_f1"
    evaluation_split: str

    def __init__(
        self,
        name: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        label_names: list[str] | None,
    ):
        super().__init__()
        self.name = name
        self.max_length, self.average_length, self.batch_size = max_length, average_length, batch_size
        self.objective = TokenClassification()
        self._label_names = label_names

    def training_sentences(self) -> Sequence[Sentence]:
        raise NotImplementedError

    def evaluation_sentences(self) -> Sequence[Sentence]:
        raise NotImplementedError

    @cached_property
    def label_names(self) -> list[str]:
        """Return the given tags or, without them, the tags in the training set: O first, the others sorted by kind, B- before I-."""
        if self._label_names:
            return [str(name) for name in self._label_names]
        there = {tag for sentence in self.training_sentences() for tag in sentence.tags}
        return sorted(there | {"O"}, key=lambda tag: (tag != "O", tag[2:], tag))

    def tokenise_training(self, tokenizer) -> list[Example]:
        """Return the labelled examples: the label of a word's first token is the word's tag, that of all other tokens is `IGNORED`."""
        sentences, number = self.training_sentences(), self._numbers()
        made = []
        for sentence, (example, firsts) in zip(sentences, self._encoded(tokenizer, sentences), strict=True):
            label = [IGNORED] * len(example["input_ids"])
            for word, place in enumerate(firsts):
                if place is not None:
                    label[place] = number(sentence.tags[word], sentence.row)
            made.append({**example, "label": label})
        return made

    def tokenise_evaluation(self, tokenizer) -> "TokenEvaluation":
        sentences, number = self.evaluation_sentences(), self._numbers()
        for sentence in sentences:
            for tag in sentence.tags:
                number(tag, sentence.row)
        examples, firsts = zip(*self._encoded(tokenizer, sentences), strict=True)
        gold = [list(sentence.tags) for sentence in sentences]
        return TokenEvaluation(self.evaluation_split, examples, gold, firsts, self.label_names)

    def _numbers(self):
        places = {name: place for place, name in enumerate(self.label_names)}

        def number(tag: str, row: str) -> int:
            if tag not in places:
                raise UserError(
                    f"{row}: tag {tag} is none of {shown(self.label_names)}; mend it or list all tags in task.label_names"
                )
            return places[tag]

        return number

    def _encoded(self, tokenizer, sentences: Sequence[Sentence]) -> Iterator[tuple[Example, list[int | None]]]:
        """Yield for each sentence its example and, for each word, the place of its first token.

        The place is None for a word that has no token or was cut off. Words are joined by blanks, as a pipeline reads text, and a
        token is assigned to a word by the offsets of its characters.

        Raises:
            UserError: `max_length` leaves no room for a word, or the tokenizer doesn't return offsets.
        """
        if not tokenizer.is_fast:
            raise UserError(
                f"a {type(tokenizer).__name__} doesn't tell which word a piece is of: save a fast tokenizer"
            )
        self.check_length(tokenizer, 1)
        for sentence in sentences:
            ends = np.cumsum([len(word) + 1 for word in sentence.words])
            encoded = tokenizer(
                " ".join(sentence.words), truncation=True, max_length=self.max_length, return_offsets_mapping=True
            )
            firsts: list[int | None] = [None] * len(sentence.words)
            for place, (start, end) in enumerate(encoded["offset_mapping"]):
                if end > start:
                    # The last character decides, since some tokenizers make the blank before a word a part of its token.
                    word = int(np.searchsorted(ends, end - 1, side="right"))
                    if firsts[word] is None:
                        firsts[word] = place
            yield {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}, firsts


class TokenEvaluation(EvaluationSet):
    """An evaluation set of tagged sentences; a word that has no token or was cut off is predicted as O.

    Attributes:
        firsts: for each sentence, the place of each word's first token; None for a word without a token.
    """

    def __init__(
        self,
        split: str,
        examples: Sequence[Example],
        gold: Sequence[list[str]],
        firsts: Sequence[list[int | None]],
        label_names: Sequence[str],
    ):
        super().__init__(split, examples, gold)
        self.firsts, self.label_names = firsts, label_names

    def reduce(self, logits: Tensor, example: Example) -> Tensor:
        return logits.argmax(dim=-1)

    def predictions(self, logits: list[Tensor]) -> Predictions:
        counts = []
        for places, firsts, gold in zip(logits, self.firsts, self.gold, strict=True):
            tags = ["O" if first is None else self.label_names[int(places[first])] for first in firsts]
            counts.append([counts_of(tags, gold)])
        return Predictions("entity_f1", np.array(counts, dtype=np.int64))


class HubTokenTask(HubData, TokenTask):
    """Tagging on a hub data set with a column of words and a column of tags.

    Args:
        text: the column of words.
        label: the column of tags, as names or numbers.
        label_names: the tags in the order of the outputs; None takes the tags that occur in the training set.
        data_label_names: the names of the data's tag numbers, if the data set does not name its tags and numbers them in another
            order than `label_names`; None if the order is the same.
    """

    def __init__(
        self,
        name: str,
        hub_id: str,
        config: str,
        evaluation_split: str,
        text: str,
        label: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        train_split: str = "train",
        label_names: list[str] | None = None,
        data_label_names: list[str] | None = None,
    ):
        super().__init__(name, max_length, average_length, batch_size, label_names)
        self.hub_id, self.config = hub_id, config
        self.train_split, self.evaluation_split = train_split, evaluation_split
        self.text, self.label = text, label
        self.data_label_names = data_label_names

    def training_sentences(self) -> list[Sentence]:
        return self._sentences(self.train_split)

    def evaluation_sentences(self) -> list[Sentence]:
        return self._sentences(self.evaluation_split)

    def _sentences(self, split: str) -> list[Sentence]:
        rows = self.rows(split, [self.text, self.label])
        names = getattr(getattr(rows.features[self.label], "feature", None), "names", None) or self.data_label_names
        names = names or self._label_names
        pairs = zip(rows[self.text], rows[self.label], strict=True)
        return [
            Sentence(list(words), [_named(tag, names) for tag in tags], f"{self.source_of(split)}, row {row}")
            for row, (words, tags) in enumerate(pairs)
            if len(words)
        ]


class FileTokenTask(OwnFiles, TokenTask):
    """Tagging on the user's own files, with rows {"tokens": [...], "tags": [...]}.

    Args:
        train_file: JSON lines, an array in JSON, or parquet.
        evaluation_file: a file of one of these kinds; None holds out a seeded fifth of `train_file`.
        text: the column of words.
        label: the column of tags.
    """

    def __init__(
        self,
        name: str,
        train_file: str | None,
        evaluation_file: str | None,
        text: str,
        label: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        label_names: list[str] | None = None,
    ):
        super().__init__(name, max_length, average_length, batch_size, label_names)
        self.take_files(train_file, evaluation_file, '.jsonl: {"tokens": [], "tags": []}')
        self.text, self.label = text, label

    def training_sentences(self) -> list[Sentence]:
        return self.training_rows()

    def evaluation_sentences(self) -> list[Sentence]:
        return self.evaluation_rows()

    def read(self, file: Path) -> list[Sentence]:
        frame = read_table(file, [self.text, self.label])
        return [
            Sentence(plain(words), plain(tags), f"{file}, row {row}")
            for row, words, tags in zip(frame.index, frame[self.text], frame[self.label], strict=True)
        ]


def _named(tag: Any, names: Sequence[str] | None) -> Any:
    """Return the name of a tag; a number is looked up in `names`, and any other tag is returned unchanged."""
    return names[tag] if isinstance(tag, int) and names and 0 <= tag < len(names) else tag
