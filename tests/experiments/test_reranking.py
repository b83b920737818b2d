"""Rerankers in the laboratory: a classifier of pairs with one output, by the order that it puts passages in."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import CrossEncoder
from sklearn.metrics import ndcg_score
from tiny import SHAPE
from transformers import BertConfig, BertForSequenceClassification

from experiments.inputs.checkpoints import load_model, load_tokenizer
from experiments.scoring.evaluation import evaluate
from experiments.tasks import build_task
from kprune.errors import UserError

OWN = {"name": "mine", "kind": "custom_reranking", "evaluation_file": None, "text": "query", "passages": "passages"}
OWN |= {"max_length": 40, "average_length": None, "batch_size": 7}
WORDS = "ada babbage saw the engine of paris and wrote a long letter to bob on a rainy day".split()
SIZES = [12, 2, 4, 15, 3]


def texts(count, seed):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=2 + k % 4)) for k in range(count)]


ROWS = [
    {"query": text, "passages": texts(SIZES[k % 5], 100 + k), "relevant": [0] if k % 2 else [1, 0]}
    for k, text in enumerate(texts(20, 0))
]


def graded(row):
    """A row with grades in place of places."""
    grades = [3.0 if place in row["relevant"] else float(place % 3 == 2) for place in range(len(row["passages"]))]
    return {"query": row["query"], "passages": row["passages"], "grades": grades}


@pytest.fixture
def file(tmp_path):
    def write(rows=ROWS, name="data.jsonl"):
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows))
        return str(tmp_path / name)

    return write


def built(file, **changes):
    return build_task(OWN | {"train_file": file, "evaluation_file": file} | changes)


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    """A folder as CrossEncoder saves one."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SHAPE, num_labels=1))
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    CrossEncoder(str(tmp_path / "plain"), device="cpu").save_pretrained(str(tmp_path / "checkpoint"))
    return tmp_path / "checkpoint"


def scores_of(checkpoint, rows):
    model = CrossEncoder(str(checkpoint), device="cpu")
    return [model.predict([(row["query"], passage) for passage in row["passages"]]) for row in rows]


@pytest.mark.parametrize("metric", ["ndcg@10", "mrr@10"])
@pytest.mark.parametrize("grades", [False, True])
def test_the_score_is_that_of_the_cross_encoders_order(file, checkpoint, metric, grades):
    rows = list(map(graded, ROWS)) if grades else ROWS
    task = built(file(rows), metric=metric, **({"grades": "grades"} if grades else {}))
    expected = []
    for row, scores in zip(rows, scores_of(checkpoint, rows), strict=True):
        gains = np.array(row["grades"] if grades else [p in row["relevant"] for p in range(len(scores))], dtype=float)
        order = np.argsort(-scores)[:10]
        first = next((place for place, passage in enumerate(order) if gains[passage]), None)
        rank = 0 if first is None else 1 / (first + 1)
        expected.append(ndcg_score([gains], [scores], k=10) if metric == "ndcg@10" else rank)
    assert 0.2 < np.mean(expected) < 0.95
    found = evaluate(load_model(checkpoint, task), task, load_tokenizer(checkpoint))
    assert found == pytest.approx(100 * np.mean(expected), abs=1e-4)


def test_calibration_examples_are_pairs_without_labels(file, tokenizer):
    training = built(file()).training(tokenizer)
    assert len(training) == sum(SIZES) * 4 and "label" not in training[0]
    pair = tokenizer(ROWS[0]["query"], ROWS[0]["passages"][2])
    assert training[2] == {name: pair[name] for name in ("input_ids", "token_type_ids")}


@pytest.mark.parametrize("relevant", [1, [1], 1.0, "parquet"])
def test_relevant_passages_are_one_or_several(file, tmp_path, tokenizer, relevant):
    source = tmp_path / "data.parquet"
    if relevant == "parquet":
        pd.DataFrame([ROWS[1] | {"relevant": [1]}]).to_parquet(source)
    else:
        source = file([ROWS[1] | {"relevant": relevant}])
    assert built(str(source), text=["query"]).evaluation(tokenizer).gold == [[0.0, 1.0]]


@pytest.fixture
def run(own_cell, checkpoint):
    return partial(own_cell, "task=custom_reranking", "task.max_length=40", f"model.checkpoint={checkpoint}")


@pytest.mark.parametrize("method", ["kprune", "kprune_plus_fast", "magnitude"])
def test_a_cell(run, file, tmp_path, method):
    record = run(f"task.train_file={file()}", f"method={method}")
    assert (record.metric, record.evaluation.examples, record.calibration.labels) == ("ndcg@10", 4, False)
    assert record.flops_reduction >= 0.4 and 0 < record.score <= 100
    (folder,) = tmp_path.glob("outputs/**/model")
    task = build_task(OWN | {"train_file": file()})
    assert evaluate(load_model(folder, task), task, load_tokenizer(folder)) == pytest.approx(record.score)
    assert CrossEncoder(str(folder), device="cpu", trust_remote_code=True).predict([("ada", "saw")]).shape == (1,)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"relevant": 2}, "row 2: relevant passage '2' is no number from 0 to 1"),
        ({"relevant": [0, -1]}, "row 2: relevant passage '-1' is no number"),
        ({"relevant": "first"}, "row 2: relevant passage 'first' is no number"),
        ({"relevant": None}, "row 2: relevant passage 'None' is no number"),
        ({"relevant": [1, 1]}, "row 2: relevant passages [1, 1] name one twice: mend it, or give task.grades"),
        ({"relevant": []}, "row 2: no passage is relevant"),
        ({"passages": []}, "row 2: passages are '[]', no list of texts"),
        ({"passages": "ada"}, "row 2: passages are 'ada', no list of texts"),
        ({"passages": ["ada", " "]}, "row 2: passage 1 is ' ', no text"),
        ({"query": ""}, "row 2: query '' is no text"),
    ],
)
def test_bad_rows_are_one_line(run, file, change, words):
    with pytest.raises(UserError) as error:
        run(f"task.train_file={file([ROWS[0], ROWS[1] | change, *ROWS[2:6]])}", "method=random")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "grades, words",
    [
        ([1], "row 1: grades are '[1]', not one for each of 2 passages"),
        ([1, -1], "row 1: grade '-1' is no number from 0 up"),
        ([0, 0], "row 1: no passage is relevant"),
        (1, "row 1: grades are '1', not one for each"),
    ],
)
def test_bad_grades_are_one_line(file, tokenizer, grades, words):
    with pytest.raises(UserError) as error:
        built(file([ROWS[1] | {"grades": grades}]), grades="grades").training(tokenizer)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_other_mistakes_are_one_line(run, file, world):
    data = f"task.train_file={file()}"
    for settings, words in (
        ([], "give task.train_file=FILE"),
        ([data, "task.metric=accuracy"], "task.metric=accuracy is none of a ranking: give ndcg@10 or mrr@10"),
        ([data, "task.relevant=a", "task.grades=b"], "say the same: give one of them"),
        ([data, "task.passages=texts"], "has no column texts"),
        ([data, "task.text=[query,passages]"], "names 2 columns: give one, of queries"),
        ([data, "method=kwon"], "method kwon reads labels, and custom_reranking has none: use method=kprune"),
        ([data, f"model.checkpoint={world / 'checkpoint'}"], "has 3 labels"),
    ):
        with pytest.raises(UserError) as error:
            run("method=random", *settings)
        assert words in str(error.value) and "\n" not in str(error.value)
