import numpy as np
import pytest
import torch

from experiments.tasks import build_task
from experiments.tasks.squad import SpanEvaluation, answer_tokens, windows
from kprune.errors import UserError

SQUAD = {
    "kind": "squad",
    "name": "squad",
    "hub_id": "org/squad",
    "config": "plain",
    "evaluation_split": "validation",
    "no_answers": False,
    "max_length": 48,
    "stride": 12,
    "max_answer_length": 30,
    "average_length": 40.0,
    "batch_size": 4,
}


@pytest.fixture
def evaluation(mirror, tokenizer):
    return build_task(SQUAD).evaluation(tokenizer)


def test_windows_cover_the_paragraph(evaluation, tokenizer):
    assert evaluation.size == 3 and len(evaluation.examples) > 4
    assert max(len(example["input_ids"]) for example in evaluation.examples) == SQUAD["max_length"]
    of_first = [window for window in evaluation.windows if window.row == 0]
    covered = {tuple(pair) for window in of_first for pair in window.offsets.tolist()}
    context = evaluation.contexts[0]
    assert "".join(context[a:b] for a, b in sorted(covered)) == context.replace(" ", "")
    ends, starts = [w.offsets[-1, 1] for w in of_first[:-1]], [w.offsets[0, 0] for w in of_first[1:]]
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    for window in of_first:
        ids = window.example["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids[window.first - 1]) == "[SEP]" and ids[window.cls] == 2
        assert len(ids) == window.first + len(window.offsets) + 1


def test_training_labels_point_at_the_answer(mirror, tokenizer):
    task = build_task(SQUAD)
    training = task.training(tokenizer)
    questions, contexts, answers = task._columns("train")
    held = set()
    for window, example in zip(windows(tokenizer, questions, contexts, 48, 12), training, strict=True):
        first, last = example["label"]
        if (first, last) != (0, 0):
            held.add(window.row)
            begin, end = window.offsets[first - window.first, 0], window.offsets[last - window.first, 1]
            assert contexts[window.row][begin:end] == answers[window.row]["text"][0]
        else:  # not in this window, or not all of it
            begin = answers[window.row]["answer_start"][0]
            end = begin + len(answers[window.row]["text"][0])
            assert begin < window.offsets[0, 0] or end > window.offsets[-1, 1]
    assert held == {0, 1, 2}


def test_no_answer_is_cls(evaluation):
    assert answer_tokens(evaluation.windows[0], None, None) == (0, 0)


def test_perfect_logits_score_100(evaluation):
    logits = []
    for window in evaluation.windows:
        begin = evaluation.contexts[window.row].find(evaluation.answers[window.row][0])
        row = torch.zeros(2, len(window.example["input_ids"]))
        for which, token in enumerate(answer_tokens(window, begin, begin + len(evaluation.answers[window.row][0]))):
            row[which, token] = 5
        logits.append(row)
    assert evaluation.score(logits) == 100


def literal_texts(logits, evaluation):
    """The reference implementation's loops, word for word in spirit."""
    texts = []
    for row in range(evaluation.size):
        candidates, null = [], None
        for window, (start, end) in zip(evaluation.windows, logits, strict=True):
            if window.row != row:
                continue
            start, end = start.numpy(), end.numpy()
            score = start[window.cls] + end[window.cls]
            null = score if null is None else min(null, score)
            for i in np.argsort(-start, kind="stable")[:20]:
                for j in np.argsort(-end, kind="stable")[:20]:
                    inside = all(0 <= k - window.first < len(window.offsets) for k in (i, j))
                    if inside and i <= j and j - i + 1 <= evaluation.max_answer_length:
                        span = window.offsets[i - window.first, 0], window.offsets[j - window.first, 1]
                        candidates.append((start[i] + end[j], span))
        if not candidates:
            texts.append("")
            continue
        best, (begin, stop) = max(candidates, key=lambda candidate: candidate[0])
        no_answer = evaluation.no_answers and null - best > 0
        texts.append("" if no_answer else evaluation.contexts[row][begin:stop])
    return texts


@pytest.mark.parametrize("no_answers", [False, True])
@pytest.mark.parametrize("longest", [1, 5, 30])
def test_vectorised_search_is_the_literal_one(evaluation, no_answers, longest):
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        logits = [torch.randn(2, len(example["input_ids"])) for example in evaluation.examples]
        for row in logits:
            row[:, 0] += 2.0 * (seed % 3)  # so that "no answer" wins now and then
        case = SpanEvaluation(
            "x", evaluation.windows, evaluation.contexts, evaluation.answers, evaluation.articles, no_answers, longest
        )
        texts = case.texts(logits)
        assert texts == literal_texts(logits, case)
        seen.update(texts)
    assert ("" in seen) == no_answers and len(seen) > 10


def test_no_span_to_be_had(evaluation):
    """The answer is then no answer; nothing is short enough here."""
    logits = [torch.zeros(2, len(example["input_ids"])) for example in evaluation.examples]
    for no_answers in (False, True):
        case = SpanEvaluation(
            "x", evaluation.windows, evaluation.contexts, evaluation.answers, evaluation.articles, no_answers, 0
        )
        assert case.texts(logits) == ["", "", ""]


def test_null_score_is_the_lowest_of_the_windows(evaluation):
    case = SpanEvaluation(
        "x", evaluation.windows, evaluation.contexts, evaluation.answers, evaluation.articles, True, 30
    )
    logits = [torch.zeros(2, len(example["input_ids"])) for example in evaluation.examples]
    for row in logits:
        row[:, 0] = 1.0
    assert case.texts(logits) == ["", "", ""]
    logits[0][:, 0] = -1.0  # a window of question 0 that is sure to hold the answer
    texts = case.texts(logits)
    assert texts[0] and texts[1:] == ["", ""]


def test_squad_2(mirror, write_split, tokenizer):
    rows = {
        "question": ["Who?", "Why?"],
        "context": ["Anna came.", "Anna came."],
        "answers": [{"text": ["Anna"], "answer_start": [0]}, {"text": [], "answer_start": []}],
    }
    for split in ("train", "validation"):
        write_split("org/squad", "plain", split, rows)
    with pytest.raises(UserError, match="row 1: the question has no answer"):
        build_task(SQUAD).evaluation(tokenizer)
    task = build_task(SQUAD | {"no_answers": True})
    assert [example["label"] for example in task.training(tokenizer)][1] == (0, 0)
    logits = [torch.zeros(2, len(example["input_ids"])) for example in task.evaluation(tokenizer).examples]
    for row in logits:
        row[:, 0] = 1.0
    assert task.evaluation(tokenizer).score(logits) == 50


def test_answer_outside_the_paragraph(mirror, write_split, tokenizer):
    answer = {"text": ["Anna"], "answer_start": [8]}
    for split in ("train", "validation"):
        write_split("org/squad", "plain", split, {"question": ["Who?"], "context": ["Anna came."], "answers": [answer]})
    with pytest.raises(UserError, match="row 0: the answer is outside"):
        build_task(SQUAD).training(tokenizer)


def test_token_types_only_where_the_tokenizer_has_them(mirror, plain_tokenizer):
    assert set(build_task(SQUAD).evaluation(plain_tokenizer).examples[0]) == {"input_ids"}


def cut(tokenizer, questions, contexts, max_length, stride):
    return list(windows(tokenizer, questions, contexts, max_length, stride))


def test_a_question_longer_than_its_window_is_cut(evaluation, tokenizer):
    """The paragraph is covered all the same; the windows of other questions are as ever."""
    context = evaluation.contexts[0]
    both = cut(tokenizer, ["who " * 600, "Who built it?"], [context] * 2, 48, 12)
    alone = cut(tokenizer, ["Who built it?"], [context], 48, 12)
    assert [w.example for w in both if w.row == 1] == [w.example for w in alone]
    long = [window for window in both if window.row == 0]
    assert max(len(window.example["input_ids"]) for window in long) <= 48
    covered = {tuple(pair) for window in long for pair in window.offsets.tolist()}
    assert "".join(context[a:b] for a, b in sorted(covered)) == context.replace(" ", "")
    question = tokenizer("who " * 600, add_special_tokens=False)["input_ids"]
    for window in long:
        asked = window.example["input_ids"][1 : window.first - 1]
        # 16 is half of the 33 that a window of 48 has beside 3 special and 12 shared ones.
        assert asked == question[:16]


def test_a_long_question_stays_whole_beside_a_paragraph_that_fits(tokenizer):
    (window,) = cut(tokenizer, ["who built it or not, and when, and where"], ["here"], 48, 12)
    assert len(window.example["input_ids"]) == len(
        tokenizer("who built it or not, and when, and where", "here")["input_ids"]
    )


@pytest.mark.parametrize("max_length, stride", [(16, 2), (8, 0), (48, 42), (12, 7)])
def test_small_windows_cover_the_paragraph(mirror, tokenizer, max_length, stride):
    task = build_task(SQUAD | {"max_length": max_length, "stride": stride})
    evaluation = task.evaluation(tokenizer)
    assert max(len(example["input_ids"]) for example in evaluation.examples) <= max_length
    for row, context in enumerate(evaluation.contexts):
        covered = {
            tuple(pair) for window in evaluation.windows if window.row == row for pair in window.offsets.tolist()
        }
        assert "".join(context[a:b] for a, b in sorted(covered)) == context.replace(" ", "")
    assert len(task.training(tokenizer)) == len(evaluation.examples)


@pytest.mark.parametrize("max_length, stride", [(48, 48), (48, 44), (384, 384), (4, 0), (1, 128)])
def test_windows_without_room_are_one_line(mirror, tokenizer, max_length, stride):
    with pytest.raises(UserError, match=f"task.stride={stride} have no room") as error:
        build_task(SQUAD | {"max_length": max_length, "stride": stride}).evaluation(tokenizer)
    assert "\n" not in str(error.value)
