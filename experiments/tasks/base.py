"""What the rest of the program knows of a task: examples, a head, a metric. Everything particular stays below."""

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
"""What `vocabulary` may name beside a file: the calibration set, and all training examples without their labels."""


class EvaluationSet:
    """Tokenised examples and what is needed to score their logits.

    Attributes:
        split: name of the data, for the record.
        examples: what goes through the model, without labels; a window of a long text is an example of its own.
        gold: the label, value or accepted answers of each scored item.
        size: number of scored items.
        majority: score of always predicting the most frequent class, in percent; None if there are no classes.
        data: what a perplexity is of; None for other metrics, as `window` (tokens of an item) and `first_token` ("once",
            before the whole text, "each", in every window, or "none") are.
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
        """Return the hash of tokens and gold: the same for two models that are scored on the same items."""
        return hashlib.sha256(json.dumps([list(self.examples), list(self.gold)]).encode()).hexdigest()

    def reduce(self, logits: Tensor, example: Example) -> Tensor:
        """Return what is kept of one example's logits until all are there: all of them, unless that is too much.

        Args:
            logits: where the model is: a vocabulary's are hundreds of megabytes, which a GPU sums up in no time.
        """
        return logits

    def predictions(self, logits: list[Tensor]) -> Predictions:
        """Return what is predicted for each item; `logits[i]` belongs to `examples[i]`, on the CPU and, for spans ([2, T_i]), unpadded."""
        raise NotImplementedError

    def score(self, logits: list[Tensor]) -> float:
        """Score in percent."""
        return self.predictions(logits).score


class Task:
    """A data set with its head, loss and metric.

    Attributes:
        metric: "accuracy", "f1", "matthews", "micro_f1", "macro_f1", "entity_f1", "spearman", "ndcg@10", "mrr@10",
            "perplexity" or "masked_perplexity".
        max_length: tokens an example is cut to.
        average_length: tokens of a mean training sequence, for the FLOPs and the size of the calibration set; None
            if it is to be measured.
        sequences: what a mean training example is for the model: 1 text, or its choices.
        batch_size: examples in a batch.
        objective: reads the head's logits, compares them, has the loss.
        label_names: the classes, ["score"] for regression, None for spans.
        fine_tuned: whether a pretrained model must be fine-tuned for it; a language model, or an encoder of embeddings, is
            pruned as pretrained.
        wanted_model: what to give in the place of a model with another head, for messages.
        labelled: whether its training examples have labels.
        generates: whether its models generate text, so that their speed is that of a prompt and of one token more.
        calibration_data: data that calibration texts are drawn from unless others are asked for; None: there are none.
        latency_point: batch size and tokens that latency is measured at unless others are asked for.
        finetuning: settings of the fine-tuning that are not the standard recipe's.
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
        """Return the ends of the names of the transformers classes whose checkpoints it takes."""
        return self.objective.class_suffixes

    @property
    def num_labels(self) -> int | None:
        """Return the outputs of the head: classes, 1 for regression, None for spans and embeddings."""
        return None if self.label_names is None else len(self.label_names)

    def fit(self, positions: int | None, reader: str) -> None:
        """Check that a model reads the task's examples, or settle on shorter ones if that is left to the model.

        Args:
            positions: tokens that the model reads; None if it does not say.
            reader: what reads, for the message.

        Raises:
            UserError: it reads fewer than it is asked to.
        """
        if positions is not None and self.max_length > positions:
            raise UserError(
                f"{reader} reads {positions} tokens, the task up to {self.max_length}: give task.max_length={positions}"
            )

    def check_length(self, tokenizer, columns: int) -> None:
        """Check that an example has room for text beside the tokens that a tokenizer adds to so many columns.

        Raises:
            UserError: it has none.
        """
        added = tokenizer.num_special_tokens_to_add(pair=columns == 2)
        if self.max_length < added + columns:
            raise UserError(
                f"task.max_length={self.max_length} leaves no room for a text beside {added} special tokens: give "
                f"task.max_length={added + columns} or more"
            )

    def check_data(self, data: str | None) -> None:
        """Check that calibration examples can be drawn from what `calibration.data` says; None: from the task's own.

        Raises:
            UserError: they can't.
        """
        if data is not None:
            raise UserError(
                f"calibration.data={data} is of texts, and {self.name} is no task on one text: leave it out, or give "
                "calibration.file"
            )

    def check_vocabulary(self, vocabulary: str) -> None:
        """Check that a model for this task can keep the tokens of `CALIBRATION`, `TRAINING` or a file of texts alone.

        Raises:
            UserError: there is no such file, or the metric is of tokens.
        """
        if self.metric.endswith("perplexity"):
            raise UserError(
                f"vocabulary={vocabulary} changes what a token is, and a perplexity is of tokens: leave it out, or cut the "
                "vocabulary of what is saved with the command kprune vocabulary"
            )
        if vocabulary not in (CALIBRATION, TRAINING):
            check_file(Path(vocabulary).expanduser(), "vocabulary")

    def calibration_texts(self, data: str | None) -> Texts | None:
        """Return the texts that calibration examples are drawn from; None: the training set is.

        Raises:
            UserError: the data are not to be had.
        """
        return None

    def draw(self, texts: Texts, tokenizer, amount: Amount, seed: int) -> tuple[list[Example], Draw]:
        """Draw examples of `calibration_texts`: a document each, in a random order; and say what an example is.

        Raises:
            UserError: there are too few texts, or tokens, for one.
        """
        order = np.random.default_rng(seed).permutation(len(texts.documents))
        examples = self.tokenise_texts(tokenizer, [texts.documents[row] for row in order])
        return examples[: amount.taken([len(example["input_ids"]) for example in examples])], "documents"

    def tokenise_texts(self, tokenizer, texts: Sequence[str]) -> list[Example]:
        """Return an unlabelled example of each text."""
        raise NotImplementedError

    def training(self, tokenizer) -> Sequence[Example]:
        """Return the labelled training set, tokenised once per tokenizer.

        Raises:
            UserError: the data are not to be had, or a column or label is wrong.
        """
        return self._once(tokenizer, "training", self.tokenise_training)

    def evaluation(self, tokenizer) -> EvaluationSet:
        """Return the evaluation set, tokenised once per tokenizer.

        Raises:
            UserError: the data are not to be had, or a column or label is wrong.
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
