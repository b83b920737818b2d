import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import yaml
from pairs import PAIRS
from torch import nn
from transformers import AutoTokenizer

from experiments.inputs.hub import find_model
from experiments.scoring.evaluation import evaluate, predict
from experiments.tasks import build_task
from kprune.errors import UserError
from kprune.objectives import Classification, Regression, Span

CONF = Path(__file__).parents[2] / "conf" / "task"


def settings_of(name: str) -> dict:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    "name, metric, labels, length, batch",
    [
        ("mrpc", "accuracy", 2, 53.24, 32),
        ("stsb", "spearman", 1, 31.47, 32),
        ("sst2", "accuracy", 2, 25.16, 32),
        ("qqp", "accuracy", 2, 30.55, 32),
        ("qnli", "accuracy", 2, 50.97, 32),
        ("mnli", "accuracy", 3, 39.05, 32),
        ("rte", "accuracy", 2, 64.59, 32),
        ("cola", "accuracy", 2, 11.67, 32),
        ("squad", "f1", None, 170, 12),
        ("squad_v2", "f1", None, 170, 12),
    ],
)
def test_configs_have_the_papers_settings(name, metric, labels, length, batch):
    task = build_task(settings_of(name))
    assert (task.name, task.metric, task.num_labels, task.average_length, task.batch_size) == (
        name,
        metric,
        labels,
        length,
        batch,
    )
    assert task.max_length == {"sst2": 64, "squad": 384, "squad_v2": 384}.get(name, 128)
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")


def test_heads():
    assert isinstance(build_task(settings_of("mnli")).objective, Classification)
    assert isinstance(build_task(settings_of("stsb")).objective, Regression)
    assert isinstance(build_task(settings_of("squad")).objective, Span)
    assert build_task(settings_of("stsb")).label_names == ["score"]


def test_unknown_kind():
    with pytest.raises(UserError, match="task.kind=chess"):
        build_task({"kind": "chess"})


def test_examples(mirror, tokenizer, plain_tokenizer):
    task = build_task(PAIRS)
    training, evaluation = task.training(tokenizer), task.evaluation(tokenizer)
    assert training is task.training(tokenizer) and evaluation is task.evaluation(tokenizer)
    assert [example["label"] for example in training] == [1, 0, 1, 0, 1, 1]
    expected = tokenizer("a cat sat", "the cat sits", truncation=True, max_length=24)
    assert training[0] == {"input_ids": expected["input_ids"], "token_type_ids": expected["token_type_ids"], "label": 1}
    assert max(len(example["input_ids"]) for example in training) <= 24
    assert evaluation.split == "validation" and evaluation.size == len(evaluation.examples) == 6
    assert set(evaluation.examples[0]) == {"input_ids", "token_type_ids"}
    assert set(task.evaluation(plain_tokenizer).examples[0]) == {"input_ids"}


def test_one_column(mirror, tokenizer):
    task = build_task(PAIRS | {"text": ["sentence1"]})
    assert task.training(tokenizer)[3]["input_ids"] == tokenizer("snow")["input_ids"]


def test_scores(mirror, tokenizer):
    evaluation = build_task(PAIRS).evaluation(tokenizer)
    right = [torch.nn.functional.one_hot(torch.tensor(label), 2).float() for label in (1, 0, 1, 0, 1, 1)]
    assert evaluation.score(right) == 100
    assert evaluation.score([*right[:5], -right[5]]) == pytest.approx(500 / 6)
    ranked = build_task(PAIRS | {"problem": "regression", "metric": "spearman"}).evaluation(tokenizer)
    assert ranked.score([torch.tensor(v) for v in (0.5, -3.0, 0.5, -3.0, 0.5, 0.5)]) == pytest.approx(100)


def test_missing_column_and_split(mirror, tokenizer):
    with pytest.raises(UserError, match="no column other: it has sentence1"):
        build_task(PAIRS | {"text": ["other"]}).training(tokenizer)
    with pytest.raises(UserError, match="no split test"):
        build_task(PAIRS | {"evaluation_split": "test"}).evaluation(tokenizer)


@pytest.mark.parametrize("label", [-1, 2, np.nan, 0.5])
def test_label_out_of_range_names_its_row(mirror, write_split, tokenizer, label):
    write_split("org/pairs", "tiny", "train", {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, label]})
    with pytest.raises(UserError, match="row 1: .*label"):
        build_task(PAIRS).training(tokenizer)


def test_text_missing_names_its_row(mirror, write_split, tokenizer):
    write_split("org/pairs", "tiny", "train", {"sentence1": ["a", None], "sentence2": ["c", "d"], "label": [1, 0]})
    with pytest.raises(UserError, match="row 1: None is no text"):
        build_task(PAIRS).training(tokenizer)


def test_class_names_are_not_made_up(mirror):
    with pytest.raises(UserError, match="list them in task.label_names"):
        build_task(PAIRS | {"label_names": None}).num_labels  # noqa: B018


# --- one's own files -------------------------------------------------------------------------------------------------

REVIEWS = {"review": [f"film number {i}" for i in range(10)], "mood": ["good", "bad"] * 5, "stars": [5, 1.5] * 5}
WRITERS = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    ".parquet": lambda frame, path: frame.to_parquet(path),
}


def custom(tmp_path, rows: dict | None = None, suffix: str = ".csv", name: str = "train", **settings):
    path = tmp_path / f"{name}{suffix}"
    WRITERS[suffix](pd.DataFrame(rows or REVIEWS), path)
    return build_task(settings_of("custom") | {"train_file": str(path), "text": ["review"], "label": "mood"} | settings)


@pytest.mark.parametrize("suffix", list(WRITERS))
def test_custom_classification(tmp_path, tokenizer, suffix, capsys):
    task = custom(tmp_path, suffix=suffix)
    assert (task.label_names, task.metric, task.average_length) == (["bad", "good"], "accuracy", None)
    training, evaluation = task.training(tokenizer), task.evaluation(tokenizer)
    assert "held out" in capsys.readouterr().out and evaluation.split == "20% of train" + suffix + ", seed 0"
    assert (len(training), evaluation.size) == (8, 2)
    ids = [example["input_ids"] for example in [*training, *evaluation.examples]]
    assert sorted(ids) == sorted(tokenizer(REVIEWS["review"])["input_ids"])  # split, nothing lost or doubled
    named = {tuple(tokenizer(text)["input_ids"]): mood for text, mood in zip(*list(REVIEWS.values())[:2], strict=True)}
    assert all(task.label_names[e["label"]] == named[tuple(e["input_ids"])] for e in training)
    assert [e["input_ids"] for e in custom(tmp_path, suffix=suffix).training(tokenizer)] == ids[:8]


def test_custom_regression_with_evaluation_file(tmp_path, tokenizer):
    path = tmp_path / "held_out.csv"
    path.write_text("review,stars\nNA,3\n")
    task = custom(tmp_path, problem="regression", label="stars", evaluation_file=str(path))
    assert (task.num_labels, task.metric) == (1, "spearman")
    assert [example["label"] for example in task.training(tokenizer)] == [5.0, 1.5] * 5
    evaluation = task.evaluation(tokenizer)
    assert evaluation.split == "held_out.csv"
    assert evaluation.examples[0]["input_ids"] == tokenizer("na")["input_ids"]  # "NA" is a word


@pytest.mark.parametrize(
    "labels, names", [([10, 2] * 5, ["2", "10"]), ([1.0, 0.0] * 5, ["0", "1"]), ([True, False] * 5, ["False", "True"])]
)
def test_custom_class_names(tmp_path, labels, names):
    for suffix in (".jsonl", ".parquet"):
        assert custom(tmp_path, REVIEWS | {"mood": labels}, suffix).label_names == names


def test_custom_given_class_names(tmp_path, tokenizer):
    task = custom(tmp_path, label_names=["good", "bad"], evaluation_file=str(tmp_path / "train.csv"))
    assert [example["label"] for example in task.training(tokenizer)] == [0, 1] * 5
    numbered = custom(
        tmp_path,
        REVIEWS | {"mood": [1, 0] * 5},
        label_names=["good", "bad"],
        evaluation_file=str(tmp_path / "train.csv"),
    )
    assert [example["label"] for example in numbered.training(tokenizer)] == [1, 0] * 5


def bad_label(value):
    return REVIEWS | {"mood": [*REVIEWS["mood"][:7], value, *REVIEWS["mood"][8:]]}


@pytest.mark.parametrize(
    "rows, settings, message",
    [
        (None, {"train_file": None}, "task.train_file"),
        (None, {"train_file": "nowhere.csv"}, "no file nowhere.csv"),
        (None, {"text": ["body"]}, "no column body: it has review, mood, stars"),
        (None, {"label": "class"}, "no column class"),
        (None, {"problem": "ranking"}, "task.problem=ranking"),
        (None, {"text": ["review"] * 3}, "names 3 columns"),
        (None, {"problem": "regression"}, "row 1: label 'good' is no finite number"),
        (None, {"label_names": ["good", "fair"]}, "row 2: label bad is none of the classes good, fair"),
        (bad_label(None), {}, "row 8: the label is missing"),
        (bad_label("nan"), {}, "row 8: the label is missing"),
        (REVIEWS | {"mood": [0, 1] * 4 + [0, -1]}, {}, "row 10: label -1 is negative"),
        (REVIEWS | {"mood": ["same"] * 10}, {}, "all labels are same"),
        (REVIEWS | {"stars": [np.inf] * 10}, {"problem": "regression", "label": "stars"}, "row 1: .*finite"),
        ({"review": [], "mood": []}, {}, "no rows"),
        ({"review": ["a", "b"], "mood": ["x", "y"]}, {}, "too few rows"),
    ],
)
def test_custom_bad_input(tmp_path, tokenizer, rows, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        task = custom(tmp_path, rows, **settings)
        if "label_names" in settings:
            task = custom(tmp_path, rows, **settings, evaluation_file=str(tmp_path / "train.csv"))
        assert task.label_names
        task.training(tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file, content, message",
    [("empty.csv", "", "empty"), ("text.doc", "a", "none of .csv"), ("half.jsonl", '{"review": ', "cannot be read")],
)
def test_custom_bad_file(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message):
        custom(tmp_path, train_file=str(tmp_path / file)).label_names  # noqa: B018


def test_custom_text_missing(tmp_path, tokenizer):
    task = custom(tmp_path, REVIEWS | {"review": ["a", None] * 5}, ".parquet")
    with pytest.raises(UserError, match="row 2: .* is no text"):
        task.training(tokenizer)


# --- evaluation ------------------------------------------------------------------------------------------------------


class Stub(nn.Module):
    """Logits that depend on an example's own tokens alone."""

    def __init__(self, span: bool = False, broken: bool = False):
        super().__init__()
        self.span, self.factor = span, float("nan") if broken else 1.0

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        assert torch.is_inference_mode_enabled() and not self.training
        values = (input_ids * attention_mask).float() * self.factor
        if self.span:
            return SimpleNamespace(start_logits=values, end_logits=-values)
        return SimpleNamespace(logits=torch.stack([values.sum(1), attention_mask.sum(1).float()], dim=1))


def test_predictions_keep_the_order_and_lose_the_padding():
    examples = [{"input_ids": list(range(1, length + 1))} for length in (3, 7, 1, 5)]
    model = Stub().train()
    logits = predict(model, examples, Classification(), 0, batch_size=3)
    assert [row.tolist() for row in logits] == [[6, 3], [28, 7], [1, 1], [15, 5]]
    assert model.training
    spans = predict(Stub(span=True), examples, Span(), 0, batch_size=3)
    assert [row.tolist() for row in spans] == [[e["input_ids"], [-i for i in e["input_ids"]]] for e in examples]


def test_evaluate(mirror, tokenizer):
    task = build_task(PAIRS)
    assert evaluate(Stub(), task, tokenizer) == evaluate(Stub(), task, tokenizer, batch_size=1)


def test_nan_logits(mirror, tokenizer):
    with pytest.raises(UserError, match="not finite"):
        evaluate(Stub(broken=True), build_task(PAIRS), tokenizer)


def dense_score(name: str) -> float:
    task = build_task(settings_of(name))
    folder = find_model(f"kprune-reference/minilm-l6-{name}")
    model = getattr(transformers, task.objective.auto_class).from_pretrained(folder, dtype=torch.float32)
    return evaluate(model, task, AutoTokenizer.from_pretrained(folder))


@pytest.mark.real_data
@pytest.mark.parametrize("name, score", [("mrpc", 78.19), ("stsb", 85.91)])
def test_dense_reference(name, score):
    assert dense_score(name) == pytest.approx(score, abs=0.01)


@pytest.mark.real_data
@pytest.mark.slow  # some minutes on two cores
@pytest.mark.skipif(not os.environ.get("KPRUNE_SLOW"), reason="set KPRUNE_SLOW=1 to score all of SQuAD")
def test_dense_reference_squad():
    assert dense_score("squad") == pytest.approx(74.63, abs=0.01)
