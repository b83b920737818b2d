"""Language modelling: the perplexity of disjoint windows of a running text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.inputs.drawing import Amount, Draw, draw_texts
from experiments.inputs.texts import CALIBRATION, SUFFIXES, HubTexts, Texts, check_file, read_file
from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet, Task
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import CausalLM, Objective


class LanguageTask(Task):
    """Perplexity of a text, by the protocol of GPTQ and SparseGPT; a subclass reads the text.

    The documents are joined by `separator` and tokenised as one text. If the tokenizer adds a first token, the token therefore
    stands only before the whole text. The tokens are cut into disjoint windows, and an incomplete window at the end is dropped.
    A window's loss is the mean over its window - 1 predicted tokens; the perplexity is the exponential of the mean over windows.

    Attributes:
        window: number of tokens in a window; if it was not given, `fit` may lower it to the length that the model reads.
        usual_window: the protocol's number of tokens in a window, used if `window` is None and the model reads as many.
        objective_kind: the class of the objective.
        calibration_option: the option that names the calibration data, for messages.

    Args:
        window: number of tokens in a window; None for `usual_window`, or for the length that the model reads if it is less.
        windows: the largest number of windows to score, counted from the start; None scores all.
        separator: the text between two documents.
        average_length: length of a sequence, in tokens, at which FLOPs are counted; None for the window.

    Raises:
        UserError: the window is shorter than two tokens.
    """

    metric = "perplexity"
    higher_is_better = False
    label_names = None
    fine_tuned = False
    wanted_model = "a language model, such as model=smollm2"
    labelled = False
    generates = True
    latency_point = (1, 512)
    calibration_data = "c4"
    calibration_option = "calibration.data"
    usual_window = 2048
    objective_kind: ClassVar[type[Objective]] = CausalLM

    def __init__(
        self,
        name: str,
        window: int | None,
        windows: int | None,
        separator: str,
        average_length: float | None,
        batch_size: int,
    ):
        super().__init__()
        if window is not None and window < 2:
            raise UserError(f"task.window={window} predicts no token: give 2 or more")
        self.name = name
        self.window_asked, self.window = window, window or self.usual_window
        self.windows, self.separator = windows, separator
        self.length_asked, self.batch_size = average_length, batch_size
        self.objective = self.objective_kind()

    @property
    def max_length(self) -> int:
        return self.window

    @property
    def average_length(self) -> float:
        return self.length_asked or self.window

    def fit(self, positions: int | None, reader: str) -> None:
        if positions is None or self.window <= positions:
            return
        if self.window_asked:
            raise UserError(
                f"{reader} reads {positions} tokens, task.window={self.window} is longer: give task.window={positions} or less"
            )
        self.window = positions

    def evaluation_texts(self) -> Texts:
        raise NotImplementedError

    @property
    def evaluation_source(self) -> str:
        """Return the name of the scored texts, in the form of `Texts.source`."""
        raise NotImplementedError

    @property
    def evaluation_split(self) -> str:
        raise NotImplementedError

    def check_data(self, data: str | None) -> None:
        """Check that `data` is a data set of `CALIBRATION` or a file of texts, and that the task does not score these texts.

        Raises:
            UserError: the data are neither, the file does not exist, or the task scores these texts.
        """
        source = self._calibration_source(data)
        if not isinstance(source, HubTexts) and source.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{self.calibration_option}={source} is unknown: give {', '.join(CALIBRATION)} or a file ({', '.join(SUFFIXES)})"
            )
        if not isinstance(source, HubTexts):
            check_file(source, self.calibration_option)
        name = source.source if isinstance(source, HubTexts) else str(source)
        if name == self.evaluation_source:
            raise UserError(
                f"{name} is what {self.name} scores, so that it can't calibrate: give other calibration.data"
            )

    def calibration_texts(self, data: str | None) -> Texts:
        source = self._calibration_source(data)
        return source.read() if isinstance(source, HubTexts) else read_file(source, self.calibration_option)

    def _calibration_source(self, data: str | None) -> HubTexts | Path:
        name = data or self.calibration_data
        return CALIBRATION[name] if name in CALIBRATION else Path(name).expanduser()

    def draw(self, texts: Texts, tokenizer: Any, amount: Amount, seed: int) -> tuple[list[Example], Draw]:
        drawn, draw = draw_texts(texts, tokenizer, self.window, amount, seed)
        return [{"input_ids": ids} for ids in drawn], draw

    def tokenise_training(self, tokenizer: Any) -> list[Example]:
        """Return the documents of the task's own calibration data, each cut to a window; documents of one token or none are left out."""
        documents = self.calibration_texts(None).documents
        encoded = tokenizer(list(documents), truncation=True, max_length=self.window)
        return [{"input_ids": ids} for ids in encoded["input_ids"] if len(ids) > 1]

    def tokenise_evaluation(self, tokenizer: Any) -> "WindowEvaluation":
        texts = self.evaluation_texts()
        windows = self.windows_of(texts, tokenizer, self.window, special=True)
        first_token = "once" if windows[0][0] in tokenizer.all_special_ids else "none"
        examples = [{"input_ids": ids} for ids in windows]
        return WindowEvaluation(self.evaluation_split, examples, texts.source, self.window, first_token)

    def windows_of(self, texts: Texts, tokenizer: Any, tokens: int, special: bool) -> list[list[int]]:
        """Return the disjoint windows of the joined documents, as lists of token ids.

        Args:
            texts: the documents.
            tokenizer: the model's tokenizer.
            tokens: number of tokens in a window.
            special: whether the tokenizer puts its special tokens around the whole text.

        Raises:
            UserError: the text is shorter than a window.
        """
        text = self.separator.join(texts.documents)
        ids = tokenizer(text, verbose=False, add_special_tokens=special)["input_ids"]
        if len(ids) < tokens:
            raise UserError(
                f"{texts.source} has {len(ids)} tokens, less than a window of {tokens}: give a smaller task.window"
            )
        windows = [ids[start : start + tokens] for start in range(0, len(ids) - tokens + 1, tokens)]
        return windows[: self.windows]


class HubTextTask(LanguageTask):
    """Perplexity of a text from the hub.

    Args:
        hub_id, config, evaluation_split, column: the column of a hub data set with the documents, one in a row.
        hub_file: the only file to read from the hub, for a data set of hundreds of files; None reads all.
        documents: number of documents to join, counted from the first; None for all.
    """

    def __init__(
        self,
        hub_id: str,
        config: str,
        evaluation_split: str,
        documents: int | None = None,
        hub_file: str | None = None,
        column: str = "text",
        **settings: Any,
    ):
        super().__init__(**settings)
        self.hub_id, self.config, self.column = hub_id, config, column
        self.hub_file, self.documents = hub_file, documents
        self._texts = HubTexts(hub_id, config, evaluation_split, column, hub_file)

    @property
    def evaluation_split(self) -> str:
        return self._texts.split

    @property
    def evaluation_source(self) -> str:
        return self._texts.source

    def evaluation_texts(self) -> Texts:
        return self._texts.read(self.documents)


class FileTextTask(LanguageTask):
    """Perplexity of the user's own file.

    Args:
        evaluation_file: the text to score: .txt, or JSON lines whose `text` entries are joined.
        train_file: the file that calibration texts are drawn from; None for C4.

    Raises:
        UserError: `evaluation_file` is not given, does not exist or is of another kind.
    """

    def __init__(self, evaluation_file: str | None, train_file: str | None, **settings: Any):
        super().__init__(**settings)
        if not evaluation_file:
            raise UserError(
                "this task scores your own text: give task.evaluation_file=FILE (.txt, or JSON lines with text)"
            )
        self.evaluation_file = Path(evaluation_file).expanduser()
        check_file(self.evaluation_file, "task.evaluation_file")
        self.train_file = train_file
        if train_file:
            self.calibration_data, self.calibration_option = train_file, "task.train_file"

    @property
    def evaluation_split(self) -> str:
        return self.evaluation_file.name

    @property
    def evaluation_source(self) -> str:
        return str(self.evaluation_file)

    def check_data(self, data: str | None) -> None:
        """Check `data` as `LanguageTask` does, and that it is not given together with `train_file`.

        Raises:
            UserError: both are given, or `LanguageTask.check_data` refuses the data.
        """
        if data and self.train_file:
            raise UserError("calibration.data and task.train_file both name calibration texts: leave one of them out")
        super().check_data(data)

    def evaluation_texts(self) -> Texts:
        return read_file(self.evaluation_file, "task.evaluation_file")


class WindowEvaluation(EvaluationSet):
    """An evaluation set of windows; the prediction for a window is its mean negative log-likelihood.

    Attributes:
        data: the name of the scored texts.
        window: number of tokens in a window.
        first_token: as in `EvaluationSet`.
    """

    metric = LanguageTask.metric

    def __init__(self, split: str, examples: Sequence[Example], data: str, window: int, first_token: str):
        super().__init__(split, examples, range(len(examples)))
        self.data, self.window, self.first_token = data, window, first_token

    def reduce(self, logits: Tensor, example: Example) -> Tensor:
        """Return the loss of a window, a scalar; the logits [T, vocabulary] of all windows would not fit in memory."""
        labels = torch.tensor(example["input_ids"][1:], device=logits.device)
        return F.cross_entropy(logits[:-1].float(), labels)

    def predictions(self, logits: list[Tensor]) -> Predictions:
        return Predictions(self.metric, np.array([float(loss) for loss in logits]))
