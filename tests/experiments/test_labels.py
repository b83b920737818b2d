"""A checkpoint's outputs are matched to a task's classes by their names."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from checkpoints import StubTask, edit_config, refused, save
from pairs import PAIRS
from safetensors.torch import load_file, save_file
from tiny import CONFIGS, tiny_batch, tiny_model

from experiments.config.cell import configured
from experiments.inputs.checkpoints import inverse, load_model, load_tokenizer, output_order, reorder
from experiments.inputs.hub import find_model
from experiments.scoring.evaluation import evaluate
from experiments.tasks import build_task
from experiments.tasks.labels import Places, places_of
from kprune import checkpoint as pruned
from kprune.errors import UserError

NLI = ["entailment", "neutral", "contradiction"]


@pytest.fixture
def folder(tmp_path):
    return save(tiny_model(dtype=torch.float32), tmp_path / "checkpoint")


def reviews(tmp_path, moods, **settings):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"film {i},{mood}\n" for i, mood in enumerate(moods)))
    content = yaml.safe_load((Path(__file__).parents[2] / "conf/task/custom.yaml").read_text())
    return build_task(content | {"train_file": str(path), "max_length": 32} | settings)


@pytest.mark.parametrize(
    "names, among, places",
    [
        (NLI, ["CONTRADICTION", "Neutral", "ENTAILMENT"], [2, 1, 0]),
        (NLI, ["contradictory", "neutral", "entail"], [2, 1, 0]),
        (["not_equivalent", "equivalent"], ["Equivalent", "not-equivalent"], [1, 0]),
        (["not_entailment", "entailment"], ["entailment", "non entailment"], [1, 0]),
        (["1", "0"], ["LABEL_0", "LABEL_1"], [1, 0]),
        (["-1", "1"], ["1", "-1"], [1, 0]),
        (["Good", "good"], ["good", "Good"], [1, 0]),
        (["a", "b"], ["a", "c"], None),
        (["a", "b"], ["a", "b", "c"], None),
        (["entails", "entailment"], ["entail", "entailment"], None),
    ],
)
def test_names_that_mean_the_same(names, among, places):
    assert places_of(names, among) == places


def test_a_name_as_it_is_comes_before_one_that_is_like_it():
    places = Places(["Good", "good", "so-so"])
    assert [places.of(name) for name in ("good", "Good", "GOOD", "so so", "SOSO", "bad")] == [
        1,
        0,
        None,
        2,
        2,
        None,
    ]


@pytest.mark.parametrize("family", CONFIGS)
def test_outputs_are_put_in_the_tasks_order_and_back(family, tmp_path, capsys):
    model = tiny_model(family, dtype=torch.float32)
    with torch.no_grad():
        logits = model(**tiny_batch()).logits
    model.config.id2label, model.config.label2id = {0: "C", 1: "a", 2: "b"}, {"C": 0, "a": 1, "b": 2}
    for saved in (save(model, tmp_path / "dense"), pruned.save(model, tmp_path / "pruned")):
        loaded = load_model(saved, StubTask())
        assert f"{saved}: outputs C, a, b put in the order of tiny: a, b, c" in capsys.readouterr().out
        assert loaded.config.id2label == {0: "a", 1: "b", 2: "C"} and loaded.config.label2id == {"a": 0, "b": 1, "C": 2}
        with torch.no_grad():
            assert torch.equal(loaded(**tiny_batch()).logits, logits[:, [1, 2, 0]])
        outputs = output_order(saved, StubTask())
        reorder(loaded, inverse(outputs))
        assert loaded.config.id2label == model.config.id2label
        with torch.no_grad():
            assert torch.equal(loaded(**tiny_batch()).logits, logits)


def test_outputs_in_order_or_without_names_stay(folder, capsys):
    for names in ({"0": "A", "1": "B", "2": "C"}, {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, None):
        edit_config(folder, id2label=names, label2id=None, num_labels=3)
        assert output_order(folder, StubTask()) is None
    assert capsys.readouterr().out == ""
    edit_config(folder, id2label={"0": "x", "1": "y", "2": "z"})
    assert output_order(folder, StubTask()) is None
    assert "outputs x, y, z are taken for a, b, c, in this order" in capsys.readouterr().out


def test_names_that_label2id_alone_tells(folder):
    edit_config(folder, id2label={str(i): f"LABEL_{i}" for i in range(3)}, label2id={"c": 0, "b": 1, "a": 2})
    assert output_order(folder, StubTask()) == [2, 1, 0]


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"id2label": {"0": "c", "1": "b", "2": "x"}}, ["c, b, x", "a, b, c", "task.label_names"]),
        ({"id2label": {"0": "a", "1": "b"}}, ["has 2 labels (a, b)", "tiny has 3 (a, b, c)"]),
        (
            {"id2label": {"0": "d", "1": "c", "2": "b", "3": "a"}},
            ["has 4 labels (d, c, b, a)", "task.label_names=[d,c,b,a]"],
        ),
        ({"id2label": {"0": "LABEL_0"}}, ["has 1 label", "task.problem=regression"]),
        ({"problem_type": "multi_label_classification"}, ["problem_type=multi_label_classification", "one class"]),
        ({"id2label": {"zero": "a"}}, ["id2label", "mend it"]),
        ({"id2label": ["a", "b", "c"]}, ["id2label", "mend it"]),
        ({"id2label": {"0": "a", "1": "b", "7": "c"}}, ["id2label", "mend it"]),
    ],
)
def test_what_cannot_be_matched_is_one_line(folder, entries, words):
    edit_config(folder, **entries)
    refused(folder, StubTask(), *words)


def test_ones_own_class_names_count(tmp_path, folder):
    """Data that name two of three classes say which names to list, and then all is matched."""
    edit_config(folder, id2label={"0": "GOOD", "1": "so-so", "2": "BAD"})
    refused(
        folder, reviews(tmp_path, ["good", "bad"] * 5), "custom has 2 (bad, good)", "task.label_names=[GOOD,so-so,BAD]"
    )
    task = reviews(tmp_path, ["good", "bad"] * 5, label_names=["GOOD", "so-so", "BAD"])
    assert output_order(folder, task) is None
    labels = [task.label_names[label] for label in task.training_table().labels]
    assert sorted(labels) == ["BAD"] * labels.count("BAD") + ["GOOD"] * labels.count("GOOD") and len(set(labels)) == 2
    assert output_order(folder, reviews(tmp_path, ["good", "bad", "so so", "good", "bad"] * 2)) == [2, 0, 1]


def test_the_order_given_for_a_data_set_is_one_of_its_names(mirror, tokenizer):
    """Its class numbers keep their meaning: no is 0 in the data, whatever output it is."""
    task = build_task(PAIRS | {"label_names": ["yes", "No"], "data_label_names": ["no", "yes"]})
    assert [example["label"] for example in task.training(tokenizer)] == [0, 1, 0, 1, 0, 0]
    assert task.evaluation(tokenizer).gold == [0, 1, 0, 1, 0, 0]


def test_a_config_tells_a_task_its_files_names():
    task = configured(
        ["task=mnli", "task.label_names=[contradiction,neutral,entailment]", "task.name=other"]
    ).task.build()
    assert task.data_label_names == NLI and task.label_names == NLI[::-1]
    assert configured(["task=mnli"]).task.build().data_label_names is None


@pytest.mark.real_data
def test_a_checkpoint_with_swapped_outputs_scores_as_the_unswapped_one(tmp_path):
    source, task = Path(find_model("kprune-reference/minilm-l6-mrpc")), configured(["task=mrpc"]).task.build()
    swapped = tmp_path / "swapped"
    shutil.copytree(source, swapped)
    weights = load_file(swapped / "model.safetensors")
    weights |= {name: weights[name].flip(0).contiguous() for name in ("classifier.weight", "classifier.bias")}
    save_file(weights, swapped / "model.safetensors", {"format": "pt"})
    config = json.loads((swapped / "config.json").read_text())
    (swapped / "config.json").write_text(
        json.dumps(config | {"id2label": {"0": "Equivalent", "1": "not-equivalent"}, "label2id": None})
    )
    for order in ("", "task.label_names=[equivalent,not_equivalent]"):
        task = configured(["task=mrpc", *filter(None, [order])]).task.build()
        score = evaluate(load_model(swapped, task), task, load_tokenizer(swapped))
        assert score == pytest.approx(78.19, abs=0.01)


def test_an_unnamed_classifier_of_another_kind_is_refused_in_one_line():
    model = tiny_model(dtype=torch.float32)
    model.classifier = torch.nn.Identity()
    with pytest.raises(UserError, match="no linear layer of 3 outputs"):
        reorder(model, [2, 0, 1])
