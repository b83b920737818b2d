"""Reranking: a classifier with one output scores each pair of query and passage, and the scores order a query's passages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.scoring.metrics import ndcg, reciprocal_rank
from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet, Task
from experiments.tasks.own_files import OwnFiles
from experiments.tasks.tables import plain, read_table
from experiments.tasks.text import LazyExamples, tokenise
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import Regression

DEPTH = 10
"""Number of top passages of a ranking that the metrics look at."""
METRICS = {f"ndcg@{DEPTH}": ndcg, f"mrr@{DEPTH}": reciprocal_rank}


@dataclass(frozen=True)
class Candidates:
    """A query, the passages to rank for it, and a grade for each passage: above 0 if the passage is relevant."""

    query: str
    passages: Sequence[str]
    grades: Sequence[float]

    @classmethod
    def of(cls, query: Any, passages: Any, row: str, relevant: Any = None, grades: Any = None) -> "Candidates":
        """Build the candidates from the values in a row of a table.

        Args:
            query: the text of the query.
            passages: a list of texts.
            row: the name of the row, for messages.
            relevant: the place of the relevant passage, from 0, or a list of places; ignored if `grades` is given.
            grades: a list with a number for each passage.

        Raises:
            UserError: a value is missing or has a wrong type, a place is out of range or given twice, a grade is negative, or no
                passage is relevant.
        """
        if not isinstance(query, str) or not query.strip():
            raise UserError(f"{row}: query {str(query)[:40]!r} is no text; mend it or remove the row")
        if not isinstance(passages, list) or not passages:
            raise UserError(
                f"{row}: passages are {str(passages)[:40]!r}, no list of texts, as .jsonl and .parquet hold: mend it"
            )
        for number, passage in enumerate(passages):
            if not isinstance(passage, str) or not passage.strip():
                raise UserError(f"{row}: passage {number} is {str(passage)[:40]!r}, no text: mend it or remove the row")
        if grades is None:
            places = relevant if isinstance(relevant, list) else [relevant]
            for place in places:
                if not _is_number(place) or place != int(place) or not 0 <= place < len(passages):
                    raise UserError(
                        f"{row}: relevant passage {str(place)[:40]!r} is no number from 0 to {len(passages) - 1}: mend it"
                    )
            if len(set(places)) < len(places):
                raise UserError(
                    f"{row}: relevant passages {str(places)[:40]} name one twice: mend it, or give task.grades if they are a "
                    "number for each passage"
                )
            grades = [float(place in places) for place in range(len(passages))]
        if not isinstance(grades, list) or len(grades) != len(passages):
            raise UserError(
                f"{row}: grades are {str(grades)[:40]!r}, not one for each of {len(passages)} passages: mend it"
            )
        for grade in grades:
            if not _is_number(grade) or grade < 0:
                raise UserError(f"{row}: grade {str(grade)[:40]!r} is no number from 0 up: mend it")
        if not any(grades):
            raise UserError(f"{row}: no passage is relevant, and a ranking of them has no score: remove the row")
        return cls(query, passages, list(map(float, grades)))


class FileRerankingTask(OwnFiles, Task):
    """Reranking on the user's own file: {"query": "...", "passages": ["...", "..."], "relevant": [0]}.

    A trained reranker is pruned on pairs of a query and a passage. Only the score reads which passages are relevant.

    Args:
        train_file: JSON lines, an array in JSON, or parquet.
        evaluation_file: a file of one of these kinds; None holds out a seeded fifth of `train_file`.
        text: the column of queries.
        passages: the column of lists of passages.
        relevant: the column with the places of the relevant passages, from 0; None for the column `relevant`.
        grades: the column with a list of grades, one for each passage and 0 if it is not relevant; replaces `relevant`.
        metric: one of `METRICS`; None for the first.

    Raises:
        UserError: the metric is unknown, `relevant` and `grades` are both given, `text` is not one column, or there is no file.
    """

    label_names = ["score"]
    fine_tuned = False
    wanted_model = "model.checkpoint=FOLDER of a reranker, a classifier of pairs with one output"
    labelled = False

    def __init__(
        self,
        name: str,
        train_file: str | None,
        evaluation_file: str | None,
        text: list[str] | str,
        passages: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        relevant: str | None = None,
        grades: str | None = None,
        metric: str | None = None,
    ):
        super().__init__()
        self.name = name
        self.take_files(train_file, evaluation_file, '.jsonl: {"query": "", "passages": ["", ""], "relevant": [0]}')
        if metric is not None and metric not in METRICS:
            raise UserError(f"task.metric={metric} is none of a ranking: give {' or '.join(METRICS)}")
        if relevant and grades:
            raise UserError(f"task.relevant={relevant} and task.grades={grades} say the same: give one of them")
        columns = [text] if isinstance(text, str) else list(text)
        if len(columns) != 1:
            raise UserError(f"task.text={columns} names {len(columns)} columns: give one, of queries")
        self.text, self.passages, self.grades = columns[0], passages, grades
        self.relevant = None if grades else relevant or "relevant"
        self.metric = metric or next(iter(METRICS))
        self.max_length, self.average_length, self.batch_size = max_length, average_length, batch_size
        self.objective = Regression()

    def tokenise_training(self, tokenizer) -> LazyExamples:
        """Return an example without a label for each pair of query and passage."""
        self.check_length(tokenizer, 2)
        return LazyExamples(tokenizer, _pairs(self.training_rows()), None, self.max_length)

    def tokenise_evaluation(self, tokenizer) -> "RerankingEvaluation":
        self.check_length(tokenizer, 2)
        rows = self.evaluation_rows()
        examples = tokenise(tokenizer, _pairs(rows), self.max_length)
        return RerankingEvaluation(self.evaluation_split, examples, [list(row.grades) for row in rows], self.metric)

    def read(self, file: Path) -> list[Candidates]:
        marks = self.grades or self.relevant
        frame = read_table(file, [self.text, self.passages, marks])
        rows = []
        for number, row in frame.iterrows():
            mark = {"grades" if self.grades else "relevant": plain(row[marks])}
            rows.append(Candidates.of(row[self.text], plain(row[self.passages]), f"{file}, row {number}", **mark))
        return rows


class RerankingEvaluation(EvaluationSet):
    """An evaluation set with a score for each query.

    `examples` are the pairs of query and passage, query after query; `gold` has a list of grades for each query.
    """

    def __init__(self, split: str, examples: Sequence[Example], grades: Sequence[Sequence[float]], metric: str):
        super().__init__(split, examples, grades)
        self.metric = metric

    def predictions(self, logits: list[Tensor]) -> Predictions:
        scores = torch.stack(list(logits)).split([len(grades) for grades in self.gold])
        ranked = [own.numpy() for own in scores]
        return Predictions(self.metric, METRICS[self.metric](ranked, [np.array(own) for own in self.gold], DEPTH))


def _pairs(rows: Sequence[Candidates]) -> list[list[str]]:
    """Return a list of queries and a list of passages, with an entry for each pair."""
    return [[row.query for row in rows for _ in row.passages], [passage for row in rows for passage in row.passages]]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
