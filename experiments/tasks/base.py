"""The interface of a task: examples, a head, a metric. Only the subclasses know the details of a data set."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from experiments.inputs.drawing import Amount, Draw
from experiments.inputs.texts import Texts, check_file
from experiments.scoring.predictions import Predictions
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import Objective

CALIBRATION, TRAINING = "calibration", "training"
"""Values of `vocabulary` that are no file: the tokens of the calibration set, and those of all training examples."""


class EvaluationSet:
    """Tokenised examples, and the right answers by which their logits are scored.

    Attributes:
        split: name of the data, for the record.
        examples: the inputs of the model, without labels; each window of a long text is an example.
        gold: the label, value or accepted answers of each scored item.
        size: number of scored items.
        majority: score of always predicting the most frequent class, in percent; None if there are no classes.
        data: for a perplexity, the name of the scored texts; None for other metrics.
        window: for a perplexity, number of tokens in an item; None for other metrics.
        first_token: for a perplexity, "once" if special tokens stand before the whole text, "each" if they stand in every window,
            "none" if they stand nowhere; None for other metrics.
    """

    majority: float | None = None
    data: str | None = None
    window: int | None = None
    first_token: str | None = None

    def __init__(self, split: str, examples: Sequence[Example], gold: Sequence[Any]):
        self.split = split
        self.examples = examples
        self.gold = gold
        self.size = len(gold)

    @cached_property
    def sha256(self) -> str:
        """Return the hash of examples and gold; it is equal for two models that are scored on the same tokens."""
        return hashlib.sha256(json.dumps([list(self.examples), list(self.gold)]).encode()).hexdigest()

    def reduce(self, logits: Tensor, example: Example) -> Tensor:
        """Return the tensor that is kept for an example in the place of its logits; a subclass with large logits returns less.

        Args:
            logits: the logits of the example, on the device of the model; over a vocabulary, they take hundreds of megabytes.
            example: the example.
        """
        return logits

    def predictions(self, logits: list[Tensor]) -> Predictions:
        """Return the prediction for each scored item.

        Args:
            logits: for each example the result of `reduce`, on the CPU and without padding (for spans: [2, T_i]).
        """
        raise NotImplementedError

    def score(self, logits: list[Tensor]) -> float:
        """Return the score: a perplexity, or else a number in percent; `logits` as in `predictions`."""
        return self.predictions(logits).score


class Task:
    """A data set with its head, loss and metric.

    Attributes:
        metric: "accuracy", "f1", "matthews", "micro_f1", "macro_f1", "entity_f1", "spearman", "ndcg@10", "mrr@10",
            "perplexity" or "masked_perplexity".
        max_length: the largest number of tokens of a sequence; longer texts are cut.
        average_length: mean number of tokens of a training sequence, for the FLOPs and the size of the calibration set; None
            if it has to be measured.
        sequences: mean number of sequences in a training example: 1, or the number of choices.
        batch_size: number of examples in a batch.
        objective: the objective of the head.
        label_names: the classes; ["score"] for regression; None for spans, choices, embeddings and texts.
        fine_tuned: whether a pretrained model must be fine-tuned for the task; False for language models and encoders of
            embeddings, which are pruned as they are.
        wanted_model: the option to give in the place of a model with another head, for messages.
        labelled: whether the training examples have labels.
        generates: whether the task's models generate text; their speed is measured on a prompt and on one further token.
        calibration_data: the default data of calibration texts; None if calibration examples come from the training set.
        latency_point: the default batch size and number of tokens for latency.
        finetuning: settings of fine-tuning that differ from the standard recipe.
    """

    name: str
    metric: str
    higher_is_better = True
    fine_tuned = True
    wanted_model = "model.checkpoint=FOLDER of a model fine-tuned on it"
    labelled = True
    generates = False
    calibration_data: str | None = None
    latency_point = (32, 128)
    max_length: int
    average_length: float | None
    sequences: float = 1
    batch_size: int
    objective: Objective
    label_names: list[str] | None
    finetuning: dict[str, float] | None = None

    def __init__(self):
        self._tokenised: WeakKeyDictionary = WeakKeyDictionary()

    @property
    def architectures(self) -> tuple[str, ...]:
        """Return the ends of the names of the transformers classes whose checkpoints fit the task."""
        return self.objective.class_suffixes

    @property
    def num_labels(self) -> int | None:
        """Return the number of outputs of the head: the number of classes, 1 for regression, None without `label_names`."""
        return None if self.label_names is None else len(self.label_names)

    def fit(self, positions: int | None, reader: str) -> None:
        """Check that a model can read the task's longest sequence; a task without a requested length may shorten its sequences.

        Args:
            positions: the largest number of tokens that the model reads; None if the model does not tell.
            reader: the name of the model, for the message.

        Raises:
            UserError: the model reads fewer tokens than the task asks for.
        """
        if positions is not None and self.max_length > positions:
            raise UserError(
                f"{reader} reads {positions} tokens, the task up to {self.max_length}: give task.max_length={positions}"
            )

    def check_length(self, tokenizer, columns: int) -> None:
        """Check that `max_length` leaves room for text beside the special tokens that a tokenizer adds.

        Args:
            tokenizer: the model's tokenizer.
            columns: number of texts in a sequence, 1 or 2.

        Raises:
            UserError: there is no room for a token of each text.
        """
        added = tokenizer.num_special_tokens_to_add(pair=columns == 2)
        if self.max_length < added + columns:
            raise UserError(
                f"task.max_length={self.max_length} leaves no room for a text beside {added} special tokens: give "
                f"task.max_length={added + columns} or more"
            )

    def check_data(self, data: str | None) -> None:
        """Check that calibration examples can be drawn from `data`, the value of `calibration.data`; None is the task's own data.

        Raises:
            UserError: they can't be drawn from it.
        """
        if data is not None:
            raise UserError(
                f"calibration.data={data} has single texts, and {self.name} is no task on one text: leave calibration.data out, or "
                "give calibration.file"
            )

    def check_vocabulary(self, vocabulary: str) -> None:
        """Check that the vocabulary of a model for this task can be cut.

        Args:
            vocabulary: `CALIBRATION`, `TRAINING` or a file of texts.

        Raises:
            UserError: the file does not exist, or the metric is a perplexity, which depends on the vocabulary.
        """
        if self.metric.endswith("perplexity"):
            raise UserError(
                f"vocabulary={vocabulary} changes the tokens, and a perplexity is a mean over tokens: leave vocabulary out, or cut the "
                "saved model's vocabulary with the command kprune vocabulary"
            )
        if vocabulary not in (CALIBRATION, TRAINING):
            check_file(Path(vocabulary).expanduser(), "vocabulary")

    def calibration_texts(self, data: str | None) -> Texts | None:
        """Return the texts that calibration examples are drawn from; None if they are drawn from the training set.

        Raises:
            UserError: the data can't be found or read.
        """
        return None

    def draw(self, texts: Texts, tokenizer, amount: Amount, seed: int) -> tuple[list[Example], Draw]:
        """Return calibration examples drawn from the result of `calibration_texts`, and the kind of draw.

        Here, each example is a document, and the documents are in a random order.

        Raises:
            UserError: the texts are too few or have too few tokens.
        """
        order = np.random.default_rng(seed).permutation(len(texts.documents))
        examples = self.tokenise_texts(tokenizer, [texts.documents[row] for row in order])
        return examples[: amount.taken([len(example["input_ids"]) for example in examples])], "documents"

    def tokenise_texts(self, tokenizer, texts: Sequence[str]) -> list[Example]:
        """Return an example without a label for each text."""
        raise NotImplementedError

    def training(self, tokenizer) -> Sequence[Example]:
        """Return the training set, labelled if the task is; it is tokenised once per tokenizer.

        Raises:
            UserError: the data can't be found or read, or a column or label is wrong.
        """
        return self._once(tokenizer, "training", self.tokenise_training)

    def evaluation(self, tokenizer) -> EvaluationSet:
        """Return the evaluation set; it is tokenised once per tokenizer.

        Raises:
            UserError: the data can't be found or read, or a column or label is wrong.
        """
        return self._once(tokenizer, "evaluation", self.tokenise_evaluation)

    def tokenise_training(self, tokenizer) -> Sequence[Example]:
        raise NotImplementedError

    def tokenise_evaluation(self, tokenizer) -> EvaluationSet:
        raise NotImplementedError

    def _once(self, tokenizer, what: str, make: Callable):
        kept = self._tokenised.setdefault(tokenizer, {})
        if what not in kept:
            kept[what] = make(tokenizer)
        return kept[what]
