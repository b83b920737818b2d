"""Retrieval by embeddings: the score is how high the relevant documents of a query rank among all documents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.inputs.texts import Texts
from experiments.scoring.metrics import ndcg
from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet
from experiments.tasks.embedding import EmbeddingTask
from experiments.tasks.text import LazyExamples, tokenise
from kprune.data import Example
from kprune.errors import UserError

DEPTH = 10
"""Number of top documents of a ranking that the metric looks at."""
CHUNK = 512
"""Number of queries whose cosines with all documents are in memory together."""


class RetrievalTask(EmbeddingTask):
    """Retrieval on rows of a query and a document that answers it; each query is searched among all documents of the split.

    The training examples are the queries and documents of the training split, each different text once.

    Args:
        text: the column of queries and the column of documents.
        group: a column whose equal values mark queries that are not independent, such as the article; None if all are independent.
    """

    metric = f"ndcg@{DEPTH}"

    def __init__(self, text: list[str], group: str | None = None, train_split: str = "train", **settings: Any):
        super().__init__(train_split=train_split, **settings)
        if len(text) != 2:
            raise UserError(
                f"task.text has {len(text)} columns, and retrieval is of queries and documents: give task.text=[query,document]"
            )
        self.text, self.group = text, group

    def tokenise_training(self, tokenizer) -> LazyExamples:
        self.check_length(tokenizer, 1)
        queries, documents = self._columns(self.train_split)
        return LazyExamples(tokenizer, [list(dict.fromkeys([*queries, *documents]))], None, self.max_length)

    def tokenise_evaluation(self, tokenizer) -> "RetrievalEvaluation":
        self.check_length(tokenizer, 1)
        queries, documents = self._columns(self.evaluation_split)
        places = {document: place for place, document in enumerate(dict.fromkeys(documents))}
        relevant: dict[str, list[int]] = {}
        for query, document in zip(queries, documents, strict=True):
            own = relevant.setdefault(query, [])
            if places[document] not in own:
                own.append(places[document])
        examples = [
            example
            for texts in (list(relevant), list(places))
            for example in tokenise(tokenizer, [texts], self.max_length)
        ]
        return RetrievalEvaluation(self.evaluation_split, examples, list(relevant.values()), self._groups(queries))

    def _columns(self, split: str) -> Sequence[Sequence[str]]:
        rows = self.rows(split, self.text)
        return [Texts(f"{self.source}, {split}, {name}", list(rows[name])).documents for name in self.text]

    def _groups(self, queries: Sequence[str]) -> np.ndarray | None:
        """Return the number of the group of each different query [queries], taken from the query's first row; None without groups."""
        if self.group is None:
            return None
        names = self.rows(self.evaluation_split, [self.group])[self.group]
        of_query = dict(zip(reversed(queries), reversed(list(names)), strict=True))
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return np.array([numbers[of_query[query]] for query in dict.fromkeys(queries)])


class RetrievalEvaluation(EvaluationSet):
    """An evaluation set with an nDCG for each query.

    `examples` are all queries, then all documents; `gold` has for each query the places of its relevant documents.
    """

    def __init__(
        self, split: str, examples: Sequence[Example], relevant: Sequence[Sequence[int]], groups: np.ndarray | None
    ):
        super().__init__(split, examples, relevant)
        self.groups = groups

    def predictions(self, logits: list[Tensor]) -> Predictions:
        vectors = F.normalize(torch.stack(logits), dim=-1)
        queries, documents = vectors[: self.size], vectors[self.size :]
        values = []
        for start in range(0, self.size, CHUNK):
            relevant = self.gold[start : start + CHUNK]
            grades = np.zeros((len(relevant), len(documents)))
            for row, own in zip(grades, relevant, strict=True):
                row[own] = 1
            values.append(ndcg((queries[start : start + CHUNK] @ documents.T).numpy(), grades, DEPTH))
        return Predictions(f"ndcg@{DEPTH}", np.concatenate(values), groups=self.groups)
