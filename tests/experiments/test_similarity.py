"""Embeddings in the laboratory: cosines of pairs, encoders that are pruned as pretrained."""

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import CONFIGS, tiny_model, tiny_tokenizer
from transformers import AutoModel, AutoModelForMaskedLM

from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.inputs.checkpoints import load_model, load_tokenizer
from experiments.scoring.evaluation import evaluate, predict
from experiments.tasks import build_task
from kprune.errors import UserError
from kprune.models.inputs import call
from kprune.objectives import Embedding

PAIRS = {
    "name": "pairs",
    "kind": "similarity",
    "hub_id": "org/pairs",
    "config": "tiny",
    "evaluation_split": "validation",
    "text": ["sentence1", "sentence2"],
    "pooling": "mean",
    "normalise": True,
    "max_length": 24,
    "average_length": None,
    "batch_size": 4,
}


def rows(values):
    """As many pairs as values, of three to seven words."""
    generator = torch.Generator().manual_seed(3)
    words = lambda: " ".join(f"w{i}" for i in torch.randint(97, (3 + len(values) % 5,), generator=generator).tolist())  # noqa: E731
    return {
        "sentence1": [words() for _ in values],
        "sentence2": [words() for _ in values],
        "label": [float(value) for value in values],
    }


@pytest.fixture
def pairs(write_split):
    for split in ("train", "validation"):
        write_split("org/pairs", "tiny", split, rows(range(12)))


@pytest.fixture
def encoder(tmp_path):
    """A folder with a pretrained encoder, named by what it was pretrained as."""

    def make(kind=AutoModelForMaskedLM):
        torch.manual_seed(0)
        model = kind.from_config(CONFIGS["distilbert"]())
        model.save_pretrained(tmp_path / "encoder")
        tiny_tokenizer().save_pretrained(tmp_path / "encoder")
        return tmp_path / "encoder"

    return make


@pytest.fixture
def run(pairs, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))

    def run(*settings, checkpoint=None):
        task = ["task=stsb_embeddings", "task.hub_id=org/pairs", "task.config=tiny", "task.max_length=24"]
        sizes = ["calibration.tokens=60", "latency.batch_size=2", "latency.sequence_length=8", "threads=1"]
        other = [f"model.checkpoint={checkpoint or encoder()}", "tracking=none", f"outputs={tmp_path / 'outputs'}"]
        return run_cell(configured([*task, *sizes, *other, "flops_reduction=0.4", *settings]), "single", "run.py")

    return run


def test_examples_are_single_sentences_without_values(write_split):
    write_split(
        "org/pairs", "tiny", "train", {"sentence1": ["w1", "w2"], "sentence2": ["w3 w4", "w1"], "label": [1.0, 2.0]}
    )
    training = build_task(PAIRS).training(tiny_tokenizer())
    assert [example["input_ids"] for example in training] == [
        tiny_tokenizer()(t)["input_ids"] for t in ("w1", "w2", "w3 w4")
    ]
    assert all("label" not in example for example in training)


def test_texts_without_room_are_refused(pairs, tokenizer):
    task = build_task(PAIRS | {"max_length": 1})
    for make in (task.training, task.evaluation):
        with pytest.raises(UserError, match="task.max_length=1 leaves no room for a text"):
            make(tokenizer)


def test_the_score_is_that_of_the_cosines(pairs, encoder):
    model, task = AutoModel.from_pretrained(encoder()).eval(), build_task(PAIRS)
    cosines = []
    for one, other in zip(*(rows(range(12))[name] for name in ("sentence1", "sentence2")), strict=True):
        vectors = []
        for text in (one, other):
            inputs = tiny_tokenizer()(text, return_tensors="pt", return_token_type_ids=False)
            vectors.append(call(model, inputs).last_hidden_state[0].mean(dim=0))
        cosines.append(torch.cosine_similarity(*vectors, dim=0).item())
    expected = 100 * stats.spearmanr(cosines, range(12)).statistic
    assert 0 < abs(expected) < 100
    assert evaluate(model, task, tiny_tokenizer()) == pytest.approx(expected)
    evaluation = task.evaluation(tiny_tokenizer())
    vectors = predict(model, evaluation.examples, Embedding(normalise=False), 1)
    np.testing.assert_allclose(evaluation.predictions(vectors).values, cosines, atol=1e-5)


@pytest.mark.parametrize("method", ["kprune", "kprune_plus_fast", "random"])
def test_a_cell_prunes_an_encoder_as_it_is(run, tmp_path, method):
    record = run(f"method={method}")
    assert (record.metric, record.evaluation.examples, record.checkpoint.source) == ("spearman", 12, "given")
    assert record.flops_reduction >= 0.4 and not record.calibration.labels
    (folder,) = tmp_path.glob("outputs/**/model")
    task = build_task(PAIRS)
    assert evaluate(load_model(folder, task), task, load_tokenizer(folder)) == pytest.approx(record.score, abs=1e-3)


def test_a_pretrained_encoder_needs_no_fine_tuning(run, encoder, tmp_path):
    record = run("method=random", f"model.pretrained={encoder()}", "model.checkpoint=null")
    assert record.checkpoint.source == "pretrained"


@pytest.mark.parametrize(
    "setting, words",
    [
        ("task.pooling=max", "task.pooling=max is not one of mean, first, last"),
        ("task.text=[sentence1]", "task.text has 1 columns, and similarity is of two"),
        ("task.text=[sentence1,other]", "no column other"),
        ("method=kwon", "method kwon reads labels, and stsb_embeddings has none: use method=kprune"),
    ],
)
def test_mistakes_are_one_line(run, setting, words):
    with pytest.raises(UserError) as error:
        run(setting)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_value_that_is_none_is_named(write_split):
    write_split("org/pairs", "tiny", "validation", {"sentence1": ["w1"], "sentence2": ["w2"], "label": [float("nan")]})
    with pytest.raises(UserError, match="row 0: the value is None; fill it in or remove the row"):
        build_task(PAIRS).evaluation(tiny_tokenizer())


def test_a_model_with_a_head_is_refused(run, tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "classifier")
    tiny_tokenizer().save_pretrained(tmp_path / "classifier")
    with pytest.raises(UserError, match="BertForSequenceClassification.*needs one Model: give an encoder"):
        run("method=random", checkpoint=tmp_path / "classifier")
