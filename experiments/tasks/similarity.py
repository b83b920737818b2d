"""Similarity of sentences: the score is the rank correlation between cosines of embeddings and people's judgements."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet
from experiments.tasks.embedding import EmbeddingTask
from experiments.tasks.text import Table, tokenise
from kprune.data import Example
from kprune.errors import UserError


class SimilarityTask(EmbeddingTask):
    """Similarity on pairs of sentences of a hub data set, each pair with a value that says how similar the two are.

    The training examples are the single sentences of all pairs, each different sentence once, without the values.

    Args:
        text: the columns of the two sentences.
        label: the column of values.
    """

    metric = "spearman"

    def __init__(self, text: list[str], label: str = "label", train_split: str = "train", **settings: Any):
        super().__init__(train_split=train_split, **settings)
        if len(text) != 2:
            raise UserError(f"task.text has {len(text)} columns, and similarity is of two: give task.text=[one,other]")
        self.text, self.label = text, label

    def tokenise_training(self, tokenizer) -> list[Example]:
        self.check_length(tokenizer, 1)
        sentences = dict.fromkeys(sentence for column in self._table(self.train_split).texts for sentence in column)
        return tokenise(tokenizer, [list(sentences)], self.max_length)

    def tokenise_evaluation(self, tokenizer) -> "PairEvaluation":
        self.check_length(tokenizer, 1)
        table = self._table(self.evaluation_split)
        examples = [example for column in table.texts for example in tokenise(tokenizer, [column], self.max_length)]
        return PairEvaluation(self.evaluation_split, examples, table.labels)

    def _table(self, split: str) -> Table:
        rows = self.rows(split, [*self.text, self.label])
        table = Table(f"{self.source}, {split}", [list(rows[column]) for column in self.text], list(rows[self.label]))
        for i, value in enumerate(table.labels):
            if value is None or not math.isfinite(value):
                raise UserError(f"{table.row(i)}: the value is {value}; fill it in or remove the row")
        return table


class PairEvaluation(EvaluationSet):
    """An evaluation set of pairs, scored by the cosine of the two embeddings.

    `examples` are the first sentences of all pairs, then the second sentences of all pairs.
    """

    def __init__(self, split: str, examples: Sequence[Example], values: Sequence[float]):
        super().__init__(split, examples, values)

    def predictions(self, logits: list[Tensor]) -> Predictions:
        first, second = torch.stack(logits).unflatten(0, (2, self.size))
        return Predictions("spearman", F.cosine_similarity(first, second, dim=-1).numpy(), np.asarray(self.gold))
