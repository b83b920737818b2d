"""SQuAD 1.1 and 2.0: long paragraphs are cut into overlapping windows, and answers are read from the logits of the windows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from experiments.scoring import metrics
from experiments.scoring.predictions import Predictions
from experiments.tasks.base import EvaluationSet, Task
from experiments.tasks.hub_data import HubData
from kprune.data import Example
from kprune.errors import UserError
from kprune.objectives import Span

N_BEST = 20
"""Number of best start positions, and of best end positions, of a window that are paired with each other."""
CHUNK = 1000
"""Number of questions that are tokenised together, and of windows that are searched together."""


@dataclass(frozen=True)
class Window:
    """A question with a part of its paragraph.

    Attributes:
        row: the number of the question.
        example: the tokens of the window.
        first: the place of the first token of the paragraph.
        offsets: [paragraph tokens, 2]; token `first + i` is the characters `offsets[i]` (begin, end) of the paragraph.
        cls: the place of the token that stands for "no answer".
    """

    row: int
    example: Example
    first: int
    offsets: np.ndarray
    cls: int


class SquadTask(HubData, Task):
    """Question answering on SQuAD 1.1 or 2.0 from the hub.

    Args:
        no_answers: whether the data have questions without an answer (2.0).
        stride: number of tokens of the paragraph that neighbouring windows share.
        max_answer_length: the largest number of tokens in a predicted answer.
    """

    metric = "f1"
    label_names = None

    def __init__(
        self,
        name: str,
        hub_id: str,
        config: str,
        evaluation_split: str,
        no_answers: bool,
        max_length: int,
        stride: int,
        max_answer_length: int,
        average_length: float | None,
        batch_size: int,
        train_split: str = "train",
    ):
        super().__init__()
        self.name = name
        self.hub_id = hub_id
        self.config = config
        self.train_split = train_split
        self.evaluation_split = evaluation_split
        self.no_answers = no_answers
        self.max_length = max_length
        self.stride = stride
        self.max_answer_length = max_answer_length
        self.average_length = average_length
        self.batch_size = batch_size
        self.objective = Span()

    def tokenise_training(self, tokenizer) -> list[Example]:
        questions, contexts, answers = self._columns(self.train_split)
        spans = []
        for row, answer in enumerate(answers):
            begin = answer["answer_start"][0] if answer["text"] else None
            end = begin + len(answer["text"][0]) if answer["text"] else None
            if begin is not None and not 0 <= begin < end <= len(contexts[row]):
                raise UserError(
                    f"{self.source_of(self.train_split)}, row {row}: the answer is outside the paragraph; mend the data"
                )
            spans.append((begin, end))
        return [
            {**window.example, "label": answer_tokens(window, *spans[window.row])}
            for window in windows(tokenizer, questions, contexts, self.max_length, self.stride)
        ]

    def tokenise_evaluation(self, tokenizer) -> "SpanEvaluation":
        questions, contexts, answers = self._columns(self.evaluation_split)
        cut = list(windows(tokenizer, questions, contexts, self.max_length, self.stride))
        accepted, rows = [answer["text"] for answer in answers], self.data[self.evaluation_split]
        articles = rows["title"] if "title" in rows.column_names else contexts
        groups = np.unique(np.asarray(articles, dtype=str), return_inverse=True)[1]
        rules = self.no_answers, self.max_answer_length
        return SpanEvaluation(self.evaluation_split, cut, contexts, accepted, groups, *rules)

    def _columns(self, split: str) -> tuple[list[str], list[str], list[dict]]:
        rows = self.rows(split, ["question", "context", "answers"])
        if len(rows) == 0:
            raise UserError(f"{self.source_of(split)} has no rows: give another split")
        answers = list(rows["answers"])
        for row, answer in enumerate(answers):
            if not answer["text"] and not self.no_answers:
                raise UserError(
                    f"{self.source_of(split)}, row {row}: the question has no answer; set task.no_answers=true"
                )
        return list(rows["question"]), list(rows["context"]), answers


class SpanEvaluation(EvaluationSet):
    """An evaluation set whose examples are windows and whose scored items are questions; a question may have several windows.

    `articles` [questions] has the number of the article of each question.
    """

    def __init__(
        self,
        split: str,
        windows: Sequence[Window],
        contexts: Sequence[str],
        answers: Sequence[Sequence[str]],
        articles: np.ndarray,
        no_answers: bool,
        max_answer_length: int,
    ):
        super().__init__(split, [window.example for window in windows], answers)
        self.windows = windows
        self.contexts = contexts
        self.answers = answers
        self.articles = articles
        self.no_answers = no_answers
        self.max_answer_length = max_answer_length

    def predictions(self, logits: list[Tensor]) -> Predictions:
        scores = metrics.squad(self.texts(logits), self.answers, self.no_answers)[1]
        return Predictions("f1", scores, groups=self.articles)

    def texts(self, logits: list[Tensor]) -> list[str]:
        """Return the answer to each question: the best span of all its windows.

        The answer is "" if no window has a valid span or, in SQuAD 2.0, if "no answer" scores higher than the best span. The
        score of "no answer" is the lowest among the windows, as in the reference implementation.
        """
        score, begin, end = best_spans(logits, self.windows, self.max_answer_length)
        null = np.array([float(row[0, w.cls] + row[1, w.cls]) for row, w in zip(logits, self.windows, strict=True)])
        owner = np.array([window.row for window in self.windows])
        texts = []
        for row, of_row in enumerate(np.split(np.arange(len(owner)), np.searchsorted(owner, range(1, self.size)))):
            best = of_row[score[of_row].argmax()]
            unanswered = np.isneginf(score[best]) or (self.no_answers and null[of_row].min() > score[best])
            texts.append("" if unanswered else self.contexts[row][begin[best] : end[best]])
        return texts


def windows(
    tokenizer, questions: Sequence[str], contexts: Sequence[str], max_length: int, stride: int
) -> Iterator[Window]:
    """Yield windows of at most `max_length` tokens, in the order of the questions; neighbouring windows share `stride` tokens.

    Raises:
        UserError: `max_length` leaves no room for a question and a paragraph beside `stride` and the special tokens.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - stride
    if room < 2:
        raise UserError(
            f"windows of task.max_length={max_length} tokens that share task.stride={stride} have no room for a question: "
            "make them longer or share less, as in task.max_length=384 task.stride=128"
        )
    for start in range(0, len(questions), CHUNK):
        # Some questions begin with so much white space that the paragraph would have no room.
        asked = [question.lstrip() for question in questions[start : start + CHUNK]]
        paragraphs = list(contexts[start : start + CHUNK])
        encoded = tokenizer(
            shortened(tokenizer, asked, paragraphs, max_length, room),
            paragraphs,
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        keys = [key for key in ("input_ids", "token_type_ids") if key in encoded]
        for i, row in enumerate(encoded["overflow_to_sample_mapping"]):
            example = {key: encoded[key][i] for key in keys}
            sequence = encoded.sequence_ids(i)
            first = sequence.index(1) if 1 in sequence else len(sequence)
            offsets = encoded["offset_mapping"][i][first : first + sequence.count(1)]
            ids = example["input_ids"]
            cls = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
            yield Window(start + row, example, first, np.array(offsets, dtype=np.int32).reshape(-1, 2), cls)


def shortened(tokenizer, questions: list[str], paragraphs: list[str], max_length: int, room: int) -> list[str]:
    """Return the questions, shortened so that each leaves room for its paragraph in the windows.

    Args:
        max_length: number of tokens in a window.
        room: number of tokens in a window beside special tokens and tokens that windows share. A question of `room` tokens or more
            is cut to `room // 2` tokens if question and paragraph don't fit in one window.
    """
    encoded = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    kept = []
    for question, paragraph, offsets in zip(questions, paragraphs, encoded["offset_mapping"], strict=True):
        if len(offsets) >= room and len(tokenizer(question, paragraph, verbose=False)["input_ids"]) > max_length:
            question = question[: offsets[room // 2 - 1][1]]
        kept.append(question)
    return kept


def answer_tokens(window: Window, begin: int | None, end: int | None) -> tuple[int, int]:
    """Return the places of the first and last token of the answer at characters [begin, end) of the paragraph.

    Both are the place of [CLS] if there is no answer (`begin` is None) or the window does not hold the whole answer.
    """
    offsets = window.offsets
    if begin is None or len(offsets) == 0 or begin < offsets[0, 0] or end > offsets[-1, 1]:
        return window.cls, window.cls
    first = int(np.searchsorted(offsets[:, 0], begin, side="right")) - 1
    last = int(np.searchsorted(offsets[:, 1], end, side="left"))
    return window.first + first, window.first + last


def best_spans(
    logits: Sequence[Tensor], windows: Sequence[Window], max_answer_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the score (start logit + end logit), begin character and end character of each window's best span, [windows] each.

    As in the reference implementation, the `N_BEST` best start positions of the whole window are paired with the `N_BEST` best
    end positions. Pairs outside the paragraph, back to front or too long are dropped; a window without other pairs scores -inf.

    Args:
        logits: [2, T_i] for each window.
        windows: the windows.
        max_answer_length: the largest number of tokens in a span.
    """
    scores, begins, ends = [], [], []
    for low in range(0, len(windows), CHUNK):
        chunk = windows[low : low + CHUNK]
        padded = pad_sequence(
            [row.T for row in logits[low : low + CHUNK]], batch_first=True, padding_value=-torch.inf
        )  # [W, T, 2]
        top, position = padded.topk(min(N_BEST, padded.shape[1]), dim=1)
        first = torch.tensor([window.first for window in chunk])
        stop = first + torch.tensor([len(window.offsets) for window in chunk])
        start, end = position[:, :, None, 0], position[:, None, :, 1]  # [W, K, 1], [W, 1, K]
        allowed = (start >= first[:, None, None]) & (end < stop[:, None, None])
        allowed &= (end >= start) & (end - start < max_answer_length)
        pairs = (top[:, :, None, 0] + top[:, None, :, 1]).masked_fill(~allowed, -torch.inf)
        score, best = pairs.flatten(1).max(dim=1)
        start = position[:, :, 0].gather(1, (best // top.shape[1])[:, None])[:, 0]
        end = position[:, :, 1].gather(1, (best % top.shape[1])[:, None])[:, 0]
        scores.append(score.numpy())
        for window, found, i, j in zip(chunk, ~torch.isneginf(score), start.tolist(), end.tolist(), strict=True):
            begins.append(window.offsets[i - window.first, 0] if found else 0)
            ends.append(window.offsets[j - window.first, 1] if found else 0)
    return np.concatenate(scores), np.array(begins), np.array(ends)
