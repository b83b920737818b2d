"""Multiple choice, on a data set of the hub or on the user's own file."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet, Task
from experiments.tasks.hub_data import HubData
from experiments.tasks.own_files import OwnFiles
from experiments.tasks.tables import plain, read_table
from experiments.tasks.text import LazyExamples, tokenise
from kprune.choices import as_examples
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import MultipleChoice
from kprune.truncation import choice_pairs


@dataclass(frozen=True)
class Question:
    """A question with its choices.

    Attributes:
        texts: the question; or a context and the question, and then the question stands before each choice.
        choices: the possible answers.
        right: the number of the right choice, from 0.
        row: the name of the row, for messages.
    """

    texts: Sequence[str]
    choices: Sequence[str]
    right: int
    row: str

    @classmethod
    def of(cls, texts: Sequence[Any], choices: Any, label: Any, row: str) -> "Question":
        """Build a question from the values in a row of a table.

        Args:
            texts: the question, or a context and the question.
            choices: a list of texts; or a mapping of two lists, `text` and `label`, as in the data set ARC.
            label: the number of the right choice from 0, or its letter (A is the first); if `choices` is a mapping, its name
                in the list `label`.
            row: the name of the row, for messages.

        Raises:
            UserError: a value is missing or has a wrong type, the label names no choice, or there are fewer than two choices.
        """
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"{row}: {text!r} is no text; mend it or remove the row")
        names = None
        if isinstance(choices, Mapping):
            names = [str(name) for name in plain(choices.get("label", []))]
            choices = plain(choices.get("text"))
        if not isinstance(choices, list):
            raise UserError(
                f"{row}: choices are {str(choices)[:40]!r}, no list of texts, as .jsonl and .parquet hold: mend it"
            )
        for number, choice in enumerate(choices):
            if not isinstance(choice, str) or not choice.strip():
                raise UserError(f"{row}: choice {number} is {str(choice)[:40]!r}, no text: mend it or remove the row")
        if len(choices) < 2:
            raise UserError(f"{row} has {len(choices)} choice, and choosing takes two or more: remove the row")
        return cls(texts, choices, _number(label, len(choices), names, row), row)


class ChoiceTask(Task):
    """Multiple choice; a subclass reads the questions, which may have different numbers of choices.

    Args:
        text: the column of questions; or two columns, of contexts and of questions.
        choices: the column of lists of choices; or several columns with a choice each, of which the last ones may be blank in a row.
        label: the column with the number, letter or name of the right choice.

    Raises:
        UserError: `text` is not one or two columns, `choices` is a list of one column, or a column is named twice.
    """

    metric = "accuracy"
    label_names = None
    evaluation_split: str

    def __init__(
        self,
        name: str,
        text: list[str] | str,
        choices: list[str] | str,
        label: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
    ):
        super().__init__()
        self.name = name
        self.text = [text] if isinstance(text, str) else list(text)
        if not 1 <= len(self.text) <= 2:
            raise UserError(
                f"task.text={self.text} names {len(self.text)} columns: give one of questions, or two, of contexts and questions"
            )
        if not isinstance(choices, str) and len(choices) < 2:
            raise UserError(f"task.choices={choices} names {len(choices)} column: give one of lists, or two or more")
        columns = [*self.text, *([choices] if isinstance(choices, str) else choices), label]
        if twice := [column for column in dict.fromkeys(columns) if columns.count(column) > 1]:
            raise UserError(
                f"column {twice[0]} is named twice by task.text, task.choices and task.label: give each another"
            )
        self.choices, self.label, self.columns = choices, label, columns
        self.max_length, self.average_length, self.batch_size = max_length, average_length, batch_size
        self.objective = MultipleChoice()

    def training_questions(self) -> Sequence[Question]:
        raise NotImplementedError

    def evaluation_questions(self) -> Sequence[Question]:
        raise NotImplementedError

    @property
    def sequences(self) -> float:
        """Return the mean number of choices of a training example."""
        return float(np.mean([len(question.choices) for question in self._training]))

    @cached_property
    def _training(self) -> Sequence[Question]:
        return self.training_questions()

    def question(self, row: Mapping[str, Any], where: str) -> Question:
        """Return the question in a row of the data; `where` is the name of the row, for messages."""
        if isinstance(self.choices, str):
            choices = plain(row[self.choices])
        else:
            choices = [row[column] for column in self.choices]
            while choices and _blank(choices[-1]):
                choices.pop()
        return Question.of([row[column] for column in self.text], choices, row[self.label], where)

    def tokenise_training(self, tokenizer) -> "LazyChoices":
        """Return the labelled training set; a row is tokenised at its first use."""
        self.check_length(tokenizer, 2)
        return LazyChoices(tokenizer, self._training, self.max_length, labels=True)

    def tokenise_evaluation(self, tokenizer) -> "ChoiceEvaluation":
        self.check_length(tokenizer, 2)
        questions = self.evaluation_questions()
        examples = list(LazyChoices(tokenizer, questions, self.max_length, labels=False))
        return ChoiceEvaluation(self.evaluation_split, examples, [question.right for question in questions])


class LazyChoices(LazyExamples):
    """Examples of questions; each is tokenised once, at its first use."""

    def __init__(self, tokenizer, questions: Sequence[Question], max_length: int, labels: bool):
        rights = [question.right for question in questions] if labels else None
        super().__init__(tokenizer, [[question.texts[0] for question in questions]], rights, max_length)
        self.questions = questions

    def tokenised(self, rows: Sequence[int]) -> list[Example]:
        asked = [self.questions[row] for row in rows]
        pairs = [choice_pairs(self.tokenizer, own.texts, own.choices, self.max_length) for own in asked]
        texts = list(zip(*(pair for own in pairs for pair in own), strict=True)) or [[], []]
        return as_examples(tokenise(self.tokenizer, texts, self.max_length), [len(own) for own in pairs])


class ChoiceEvaluation(EvaluationSet):
    """An evaluation set of questions, with one logit for each choice; `gold` has the numbers of the right choices."""

    def predictions(self, logits: list[Tensor]) -> Predictions:
        chosen = [int(own.argmax()) for own in logits]
        return Predictions("accuracy", np.array(chosen) == np.array(self.gold))


class HubChoiceTask(HubData, ChoiceTask):
    """Multiple choice on one configuration of a hub data set."""

    def __init__(
        self,
        name: str,
        hub_id: str,
        config: str,
        evaluation_split: str,
        text: list[str] | str,
        choices: list[str] | str,
        label: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        train_split: str = "train",
    ):
        super().__init__(name, text, choices, label, max_length, average_length, batch_size)
        self.hub_id, self.config = hub_id, config
        self.train_split, self.evaluation_split = train_split, evaluation_split

    def training_questions(self) -> list[Question]:
        return self._questions(self.train_split)

    def evaluation_questions(self) -> list[Question]:
        return self._questions(self.evaluation_split)

    def _questions(self, split: str) -> list[Question]:
        rows = enumerate(self.rows(split, self.columns))
        return [self.question(row, f"{self.source_of(split)}, row {number}") for number, row in rows]


class FileChoiceTask(OwnFiles, ChoiceTask):
    """Multiple choice on the user's own file: {"question": "...", "choices": ["...", "..."], "label": 0}.

    Args:
        train_file: JSON lines, an array in JSON, or parquet; also CSV if each choice has a column.
        evaluation_file: a file of one of these kinds; None holds out a seeded fifth of `train_file`.
    """

    def __init__(
        self,
        name: str,
        train_file: str | None,
        evaluation_file: str | None,
        text: list[str] | str,
        choices: list[str] | str,
        label: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
    ):
        super().__init__(name, text, choices, label, max_length, average_length, batch_size)
        self.take_files(train_file, evaluation_file, '.jsonl: {"question": "", "choices": ["", ""], "label": 0}')

    def training_questions(self) -> list[Question]:
        return self.training_rows()

    def evaluation_questions(self) -> list[Question]:
        return self.evaluation_rows()

    def read(self, file: Path) -> list[Question]:
        frame = read_table(file, self.columns)
        return [self.question(row, f"{file}, row {number}") for number, row in frame.iterrows()]


def _blank(value: Any) -> bool:
    """Tell whether an entry of a table is empty."""
    nan = isinstance(value, float) and math.isnan(value)
    return value is None or value is pd.NA or nan or (isinstance(value, str) and not value.strip())


def _number(label: Any, choices: int, names: Sequence[str] | None, row: str) -> int:
    """Return the number of the right choice.

    Raises:
        UserError: the label is missing, or it names no choice.
    """
    if _blank(label):
        raise UserError(f"{row}: the label is missing; fill it in or remove the row")
    text = str(label).strip()
    if names:
        if names[:choices].count(text) == 1:
            return names.index(text)
        raise UserError(
            f"{row}: label {text[:40]!r} is not one of {', '.join(names[:choices])}; mend it or remove the row"
        )
    text = re.sub(r"\.0+$", "", text)  # a table turns whole numbers into floats if some are missing
    number = ord(text.upper()) - ord("A") if re.fullmatch("[A-Za-z]", text) else None
    if number is None and re.fullmatch(r"-?\d+", text, re.ASCII) and not isinstance(label, bool):
        number = int(text)
    if number is None or not 0 <= number < choices:
        raise UserError(
            f"{row}: label {text[:40]!r} is no number from 0 to {choices - 1}, nor a letter from A to "
            f"{chr(ord('A') + min(choices, 26) - 1)}; mend it or remove the row"
        )
    return number
