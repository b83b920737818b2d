"""Language modelling: the perplexity of disjoint windows of a running text."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import DatasetDict
from torch import Tensor

from experiments.inputs.hub import find_dataset
from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet, Task
from experiments.tasks.glue import split_with_columns
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import CausalLM


class LanguageTask(Task):
    """A text from the hub, by the protocol of GPTQ and SparseGPT.

    The rows of the evaluation split are joined by `separator` and tokenised once, so that a first token stands once, before
    the whole text, if the tokenizer puts one; the tokens are cut into disjoint windows, and what is left at the end is
    dropped. A window's loss is the mean over its window - 1 predicted tokens; the perplexity is the exponential of the mean
    over windows.

    Args:
        window: tokens of a window.
        windows: at most so many windows are scored, from the start; None for all.
        separator: what joins the rows.
        calibration_id, calibration_config, calibration_split: data set that calibration texts are drawn from, one text a row.
    """

    metric = "perplexity"
    higher_is_better = False
    label_names = None
    fine_tuned = False

    def __init__(
        self,
        name: str,
        hub_id: str,
        config: str,
        evaluation_split: str,
        window: int,
        windows: int | None,
        separator: str,
        calibration_id: str,
        calibration_config: str,
        calibration_split: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        column: str = "text",
    ):
        super().__init__()
        if window < 2:
            raise UserError(f"task.window={window} predicts no token: give 2 or more")
        self.name = name
        self.hub_id, self.config, self.evaluation_split = hub_id, config, evaluation_split
        self.window, self.windows, self.separator = window, windows, separator
        self.calibration = calibration_id, calibration_config, calibration_split
        self.max_length, self.average_length, self.batch_size = max(max_length, window), average_length, batch_size
        self.column = column
        self.objective = CausalLM()

    @cached_property
    def data(self) -> DatasetDict:
        return find_dataset(self.hub_id, self.config)

    def tokenise_training(self, tokenizer: Any) -> list[Example]:
        """Return the calibration texts, each cut to `max_length` tokens; texts of fewer than two tokens are left out."""
        hub_id, config, split = self.calibration
        rows = split_with_columns(find_dataset(hub_id, config), f"{hub_id} ({config})", split, [self.column])
        encoded = tokenizer(list(rows[self.column]), truncation=True, max_length=self.max_length)
        return [{"input_ids": ids} for ids in encoded["input_ids"] if len(ids) > 1]

    def tokenise_evaluation(self, tokenizer: Any) -> "WindowEvaluation":
        """Return the windows of the evaluation split.

        Raises:
            UserError: the text is shorter than a window.
        """
        rows = split_with_columns(self.data, f"{self.hub_id} ({self.config})", self.evaluation_split, [self.column])
        ids = tokenizer(self.separator.join(rows[self.column]), verbose=False)["input_ids"]
        count = len(ids) // self.window
        if not count:
            raise UserError(
                f"{self.hub_id} ({self.config}, {self.evaluation_split}) has {len(ids)} tokens, less than a window of "
                f"{self.window}: give a smaller task.window"
            )
        if self.windows is not None:
            count = min(count, self.windows)
        windows = [ids[start : start + self.window] for start in range(0, count * self.window, self.window)]
        return WindowEvaluation(self.evaluation_split, [{"input_ids": window} for window in windows])


class WindowEvaluation(EvaluationSet):
    """The mean negative log-likelihood of each window."""

    def __init__(self, split: str, examples: Sequence[Example]):
        super().__init__(split, examples, range(len(examples)))

    def reduce(self, logits: Tensor, example: Example) -> Tensor:
        """Return a window's loss in place of its logits, [T, vocabulary]: all windows' would not fit in memory."""
        labels = torch.tensor(example["input_ids"][1:])
        return F.cross_entropy(logits[:-1].float(), labels)

    def predictions(self, logits: list[Tensor]) -> Predictions:
        return Predictions("perplexity", np.array([float(loss) for loss in logits]))
