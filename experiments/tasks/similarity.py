"""Embeddings of sentences, by how well their cosines rank pairs as people do."""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from datasets import DatasetDict
from torch import Tensor

from experiments.inputs.hub import find_dataset, split_with_columns
from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet, Task
from experiments.tasks.text import Table, tokenise
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import Embedding


class SimilarityTask(Task):
    """Pairs of a hub data set with a value of how similar they are; the pretrained encoder is pruned as it is, without a head.

    Its training examples are the single sentences of all pairs, each once, without the values.

    Args:
        text: the columns of the two sentences.
        label: the column of values.
        pooling, normalise: how the encoder makes its embeddings, as `Embedding` has it.
    """

    metric = "spearman"
    label_names = None
    fine_tuned = False
    labelled = False

    def __init__(
        self,
        name: str,
        hub_id: str,
        config: str,
        evaluation_split: str,
        text: list[str],
        pooling: str,
        normalise: bool,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        train_split: str = "train",
        label: str = "label",
    ):
        super().__init__()
        if len(text) != 2:
            raise UserError(f"task.text has {len(text)} columns, and similarity is of two: give task.text=[one,other]")
        self.name, self.hub_id, self.config = name, hub_id, config
        self.train_split, self.evaluation_split = train_split, evaluation_split
        self.text, self.label = text, label
        self.max_length, self.average_length, self.batch_size = max_length, average_length, batch_size
        self.objective = Embedding(pooling, normalise)

    @property
    def architectures(self) -> tuple[str, ...]:
        # Pretrained encoders are named by what they were pretrained as.
        return (*super().architectures, "ForMaskedLM", "ForPreTraining")

    @cached_property
    def data(self) -> DatasetDict:
        return find_dataset(self.hub_id, self.config)

    def tokenise_training(self, tokenizer) -> list[Example]:
        sentences = dict.fromkeys(sentence for column in self._table(self.train_split).texts for sentence in column)
        return tokenise(tokenizer, [list(sentences)], self.max_length)

    def tokenise_evaluation(self, tokenizer) -> "PairEvaluation":
        table = self._table(self.evaluation_split)
        examples = [example for column in table.texts for example in tokenise(tokenizer, [column], self.max_length)]
        return PairEvaluation(self.evaluation_split, examples, table.labels)

    def _table(self, split: str) -> Table:
        source = f"{self.hub_id} ({self.config})"
        rows = split_with_columns(self.data, source, split, [*self.text, self.label])
        table = Table(f"{source}, {split}", [list(rows[column]) for column in self.text], list(rows[self.label]))
        for i, value in enumerate(table.labels):
            if value is None or not math.isfinite(value):
                raise UserError(f"{table.row(i)}: the value is {value}; fill it in or remove the row")
        return table


class PairEvaluation(EvaluationSet):
    """The cosine of the embeddings of each pair: `examples` are all first sentences, then all second ones."""

    def __init__(self, split: str, examples: Sequence[Example], values: Sequence[float]):
        super().__init__(split, examples, values)

    def predictions(self, logits: list[Tensor]) -> Predictions:
        first, second = torch.stack(logits).unflatten(0, (2, self.size))
        return Predictions("spearman", F.cosine_similarity(first, second, dim=-1).numpy(), np.asarray(self.gold))
