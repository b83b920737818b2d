"""Several labels for each text, and metrics of counts, in the laboratory."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef
from tiny import tiny_model
from transformers import AutoTokenizer
from world import environment, overrides

from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.config.composing import file_settings
from experiments.tasks import build_task
from experiments.tasks.text import TextEvaluation
from kprune.errors import UserError
from kprune.objectives import MultiLabel

LABELS = ["billing", "delay", "praise"]
CUSTOM = {"name": "mine", "kind": "custom", "evaluation_file": None, "text": ["text"], "label": "labels"}
CUSTOM |= {"problem": "multi_label", "max_length": 32, "average_length": None, "batch_size": 8}


@pytest.fixture
def rows(tmp_path):
    generator = np.random.default_rng(0)

    def write(change=lambda row: row):
        texts = [" ".join(f"w{i}" for i in generator.integers(97, size=8)) for _ in range(40)]
        lines = [{"text": text, "labels": LABELS[: i % 4]} for i, text in enumerate(texts)]
        file = tmp_path / "data.jsonl"
        file.write_text("\n".join(json.dumps(change(line)) for line in lines))
        return file

    return write


@pytest.fixture
def checkpoint(world, tmp_path):
    model, folder = tiny_model(head="multi_label", dtype=torch.float32), tmp_path / "checkpoint"
    # In another order than the data's names.
    model.config.id2label = dict(enumerate(reversed(LABELS)))
    model.config.label2id = {name: place for place, name in model.config.id2label.items()}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(folder)
    return folder


@pytest.fixture
def run(world, monkeypatch, tmp_path):
    for name, value in environment(world).items():
        monkeypatch.setenv(name, value)

    def run(*settings):
        own = {setting.partition("=")[0] for setting in settings}
        given = [setting for setting in overrides(world) if setting.partition("=")[0] not in own]
        return run_cell(configured([*given, *settings, f"outputs={tmp_path / 'outputs'}"]), "single", "python run.py")

    return run


def test_lists_of_labels_are_zeros_and_ones(rows):
    task = build_task(CUSTOM | {"train_file": str(rows())})
    assert (task.label_names, task.metric, type(task.objective)) == (LABELS, "micro_f1", MultiLabel)
    table = task.training_table()
    wanted = {row: [int(place < (row - 1) % 4) for place in range(3)] for row in table.rows}
    assert dict(zip(table.rows, table.labels, strict=True)) == wanted


@pytest.mark.parametrize("given", [{}, {"label_names": LABELS}])
def test_zeros_and_ones_are_no_names(rows, given):
    """Read as names, or as numbers of names, they would give other labels."""
    file = rows(lambda row: row | {"labels": [int(name in row["labels"]) for name in LABELS]})
    task = build_task(CUSTOM | given | {"train_file": str(file)})
    with pytest.raises(UserError, match="name one twice: give the names of the text's own labels"):
        task.training_table()


def test_rows_without_any_label(rows):
    task = build_task(CUSTOM | {"train_file": str(rows(lambda row: row | {"labels": []}))})
    with pytest.raises(UserError, match="column labels: no row has a label; give some that have"):
        task.training_table()


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1"])
def test_scores_of_several_labels_are_scikit_learns(metric):
    gold = (np.random.default_rng(0).random((30, 3)) < 0.4).astype(int)
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    evaluation = TextEvaluation("test", [{"input_ids": [5]}] * 30, gold.tolist(), metric, 3)
    expected = f1_score(gold, logits.numpy() > 0, average=metric.removesuffix("_f1"))
    assert evaluation.score(list(logits)) == pytest.approx(100 * expected)


@pytest.mark.parametrize("metric, kinds", [("f1", 2), ("matthews", 2), ("matthews", 3)])
def test_metrics_of_a_classifier_are_scikit_learns(metric, kinds):
    gold = np.random.default_rng(0).integers(kinds, size=30)
    logits = torch.randn(30, kinds, generator=torch.Generator().manual_seed(0))
    evaluation = TextEvaluation("test", [{"input_ids": [5]}] * 30, gold.tolist(), metric, kinds)
    score = {"f1": f1_score, "matthews": matthews_corrcoef}[metric]
    assert evaluation.score(list(logits)) == pytest.approx(100 * score(gold, logits.argmax(dim=1).numpy()))


@pytest.mark.parametrize("method", ["kprune_plus_fast", "kwon"])
def test_a_cell_of_several_labels(run, rows, checkpoint, method):
    settings = ["task.text=[text]", "task.label=labels", "task.problem=multi_label", f"task.train_file={rows()}"]
    record = run(*settings, f"model.checkpoint={checkpoint}", f"method={method}", "flops_reduction=0.4")
    assert (record.metric, record.evaluation.examples) == ("micro_f1", 8)
    assert 0 <= record.score <= 100 and record.flops_reduction >= 0.4


def test_a_cell_by_matthews(run):
    record = run("task.metric=matthews", "method=magnitude", "flops_reduction=0.5")
    assert record.metric == "matthews" and -100 <= record.dense_score <= 100


@pytest.mark.parametrize(
    "settings, words",
    [
        (["task.metric=f1"], "task.metric=f1 is the F1 of the second of two classes, and custom has 3"),
        (["task.metric=micro_f1"], "task.metric=micro_f1 does not fit classification: give accuracy or f1 or matthews"),
        (["task.problem=multi_label"], "'bad' is no list: give lists of names, in JSON lines or parquet"),
        (["task.problem=several"], "give classification or multi_label or regression"),
    ],
)
def test_what_does_not_fit_is_one_line(run, settings, words):
    with pytest.raises(UserError) as error:
        run(*settings, "method=magnitude", "flops_reduction=0.5")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_task_of_one_label_and_a_model_of_several_do_not_meet(run, rows, checkpoint, world):
    names = f"task.label_names=[{','.join(LABELS)}]"
    one = rows(lambda row: row | {"labels": LABELS[len(row["labels"]) % 3]})
    with pytest.raises(UserError, match="problem_type=multi_label_classification.*one class for each text"):
        run(
            "task.text=[text]",
            "task.label=labels",
            names,
            f"task.train_file={one}",
            f"model.checkpoint={checkpoint}",
            "method=random",
        )
    with pytest.raises(UserError, match="set task.problem=multi_label"):
        run("task.text=[text]", "task.label=labels", f"task.train_file={rows()}", "method=random")
    config = json.loads((checkpoint / "config.json").read_text()) | {"problem_type": "single_label_classification"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    several = ["task.text=[text]", "task.label=labels", "task.problem=multi_label", f"task.train_file={rows()}"]
    with pytest.raises(UserError, match="problem_type=single_label_classification.*several labels for each text"):
        run(*several, f"model.checkpoint={checkpoint}", "method=random")


def test_labels_of_a_calibration_file(run, rows, checkpoint, tmp_path):
    several = ["task.text=[text]", "task.label=labels", "task.problem=multi_label", f"task.train_file={rows()}"]
    several += [f"model.checkpoint={checkpoint}", "method=kwon", "flops_reduction=0.4", "calibration.tokens=100000"]
    for label, wrong in (
        ([0, 1, 1], None),
        (1, "not a list of 3 numbers"),
        ([0, 1, 2], "from 0 to 1, one for each output"),
    ):
        file = tmp_path / f"calibration-{len(str(label))}{wrong is None}.json"
        examples = [{"input_ids": [5 + i, 7, 9, 11], "label": label} for i in range(12)]
        file.write_text(json.dumps({"batch_size": 4, "examples": examples}))
        if wrong is None:
            assert run(*several, f"calibration.file={file}").flops_reduction >= 0.4
            continue
        with pytest.raises(UserError, match=wrong):
            run(*several, f"calibration.file={file}")


@pytest.mark.real_data
def test_cola_by_matthews(tokenizer):
    """Right answers give 100, wrong ones −100, and always the same answer 0."""
    evaluation = build_task(file_settings("task", "cola_matthews")).evaluation(tokenizer)
    right = torch.nn.functional.one_hot(torch.tensor(evaluation.gold), 2).double()
    assert evaluation.size == 1043
    for answers, score in ((right, 100), (1 - right, -100), (torch.eye(2)[[1] * len(right)], 0)):
        assert evaluation.score(list(answers)) == pytest.approx(score)
