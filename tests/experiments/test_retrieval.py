"""Search in the laboratory: every query among all documents, by the cosines of a pretrained encoder."""

import numpy as np
import pytest
import torch
from tiny import CONFIGS, tiny_tokenizer
from transformers import AutoModel

from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.inputs.checkpoints import load_model, load_tokenizer
from experiments.scoring.evaluation import evaluate
from experiments.tasks import build_task
from kprune.errors import UserError
from kprune.models.inputs import call

SEARCH = {
    "name": "search",
    "kind": "retrieval",
    "hub_id": "org/search",
    "config": "tiny",
    "evaluation_split": "validation",
    "text": ["question", "context"],
    "group": "title",
    "pooling": "mean",
    "normalise": True,
    "max_length": 24,
    "average_length": None,
    "batch_size": 4,
}


def sentences(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        " ".join(f"w{i}" for i in torch.randint(97, (3 + k % 5,), generator=generator).tolist()) for k in range(count)
    ]


def rows(seed=0):
    """18 rows of 17 questions and 14 documents: some documents answer two questions, one question has two documents."""
    questions, documents = sentences(17, seed), sentences(14, seed + 1)
    return {
        "question": [*questions, questions[0]],
        "context": [*documents, documents[0], documents[1], documents[2], documents[5]],
        "title": [f"article {row // 6}" for row in range(18)],
    }


@pytest.fixture
def search(write_split):
    for seed, split in enumerate(("train", "validation")):
        write_split("org/search", "tiny", split, rows(10 * seed))


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    AutoModel.from_config(CONFIGS["bert"]()).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_training_examples_are_queries_and_documents_each_once(search):
    training = build_task(SEARCH).training(tiny_tokenizer())
    assert len(training) == 17 + 14 and "label" not in training[3]
    texts = [*dict.fromkeys(rows()["question"]), *dict.fromkeys(rows()["context"])]
    assert [example["input_ids"] for example in training] == [tiny_tokenizer()(text)["input_ids"] for text in texts]


def test_texts_without_room_are_refused(search, tokenizer):
    task = build_task(SEARCH | {"max_length": 1})
    for make in (task.training, task.evaluation):
        with pytest.raises(UserError, match="task.max_length=1 leaves no room for a text"):
            make(tokenizer)


def test_every_different_document_is_searched_for_every_different_query(search):
    evaluation = build_task(SEARCH).evaluation(tiny_tokenizer())
    assert (evaluation.size, len(evaluation.examples)) == (17, 17 + 14)
    assert evaluation.gold[0] == [0, 5] and evaluation.gold[14] == [0]
    assert evaluation.groups.tolist() == [row // 6 for row in range(17)]


def test_the_score_is_that_of_the_sorted_cosines(search, encoder):
    model, task = AutoModel.from_pretrained(encoder).eval(), build_task(SEARCH)
    data = rows(10)

    def embed(text):
        return call(model, tiny_tokenizer()(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)

    documents = list(dict.fromkeys(data["context"]))
    vectors = {document: embed(document) for document in documents}
    expected = []
    for question in dict.fromkeys(data["question"]):
        own = {c for q, c in zip(data["question"], data["context"], strict=True) if q == question}
        cosine = {name: torch.cosine_similarity(embed(question), vectors[name], dim=0).item() for name in documents}
        ranking = sorted(documents, key=cosine.__getitem__, reverse=True)[:10]
        gain = sum(1 / np.log2(place + 2) for place, name in enumerate(ranking) if name in own)
        expected.append(gain / sum(1 / np.log2(place + 2) for place in range(len(own))))
    assert 0.2 < np.mean(expected) < 0.9
    assert evaluate(model, task, tiny_tokenizer()) == pytest.approx(100 * np.mean(expected))


def run(encoder, tmp_path, *settings):
    task = ["task=squad_retrieval", "task.hub_id=org/search", "task.config=tiny", "task.max_length=24"]
    sizes = ["calibration.tokens=60", "latency.batch_size=2", "latency.sequence_length=8", "threads=1"]
    other = [f"model.checkpoint={encoder}", "tracking=none", f"outputs={tmp_path / 'outputs'}", "flops_reduction=0.4"]
    return run_cell(configured([*task, *sizes, *other, *settings]), "single", "run.py")


def test_a_cell_prunes_an_encoder_and_scores_its_search(search, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    record = run(encoder, tmp_path, "method=kprune_plus_fast")
    assert (record.metric, record.evaluation.examples) == ("ndcg@10", 17)
    assert record.flops_reduction >= 0.4 and not record.calibration.labels
    (folder,) = tmp_path.glob("outputs/**/model")
    task = build_task(SEARCH)
    assert evaluate(load_model(folder, task), task, load_tokenizer(folder)) == pytest.approx(record.score, abs=1e-3)


@pytest.mark.parametrize(
    "setting, words",
    [
        ("task.text=[question]", "task.text has 1 columns, and retrieval is of queries and documents"),
        ("task.group=other", "no column other"),
        ("method=kwon", "method kwon reads labels, and squad_retrieval has none: use method=kprune"),
    ],
)
def test_mistakes_are_one_line(search, encoder, tmp_path, monkeypatch, setting, words):
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError) as error:
        run(encoder, tmp_path, setting)
    assert words in str(error.value) and "\n" not in str(error.value)
