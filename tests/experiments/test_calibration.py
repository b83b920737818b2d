"""Calibration sets: how many examples are drawn, which files are read, and what is refused before a model sees it."""

import json
from dataclasses import replace

import pytest
from tiny import tiny_model
from world import overrides

from experiments.config.cell import configured
from experiments.inputs.calibration import read_calibration
from experiments.inputs.checkpoints import load_tokenizer
from experiments.inputs.subject import calibration_for, subject_for
from kprune.data import mean_length
from kprune.errors import UserError

GOOD = {"input_ids": [5, 6, 7], "token_type_ids": [0, 0, 1], "label": 1}


@pytest.fixture
def read(world, tmp_path):
    task, tokenizer = (
        configured(overrides(world)).task.build(),
        load_tokenizer(world / "checkpoint"),
    )

    def read(content, family="bert"):
        file = tmp_path / "calibration.json"
        file.write_text(json.dumps(content))
        return read_calibration(str(file), task, tokenizer, tiny_model(family), labels=True)

    return read


def test_so_many_examples_or_those_of_so_many_tokens(world, monkeypatch):
    monkeypatch.setenv("KPRUNE_CACHE", str(world / "cache"))
    config = configured([*overrides(world), "calibration.tokens=150"])
    subject = subject_for(config)
    training = subject.task.training(subject.tokenizer)
    by_tokens = calibration_for(config.calibration, 0, subject, labels=True)
    assert len(by_tokens.examples) == int(150 / mean_length(training))
    for asked, drawn in ((7, 7), (len(training) + 1, len(training))):
        counted = replace(config.calibration, examples=asked)
        assert len(calibration_for(counted, 0, subject, labels=True).examples) == drawn


def test_a_good_file(read):
    padded = GOOD | {"input_ids": [5, 6, 7, 1], "token_type_ids": [0, 0, 1, 0], "attention_mask": [1, 1, 1, 0]}
    calibration = read(
        {"batch_size": 3, "examples": [GOOD, padded, {**GOOD, "input_ids": [5] * 64, "token_type_ids": [0] * 64}]}
    )
    assert calibration.batch_size == 3 and [len(e["input_ids"]) for e in calibration.examples] == [3, 3, 64]
    assert calibration.examples[1]["token_type_ids"] == [0, 0, 1]


def test_padding_goes_from_whichever_side_it_is_on(read):
    for ids, mask in (([1, 1, 5, 6, 7], [0, 0, 1, 1, 1]), ([5, 1, 6, 7, 1], [1, 0, 1, 1, 0])):
        example = GOOD | {"input_ids": ids, "token_type_ids": mask, "attention_mask": mask}
        (kept,) = read({"examples": [example]}).examples
        assert kept["input_ids"] == [5, 6, 7] and kept["token_type_ids"] == [1, 1, 1]


@pytest.mark.parametrize(
    "task, label, words",
    [
        ("stsb", 2.5, None),
        ("stsb", 3, None),
        ("stsb", "high", "no finite number"),
        ("stsb", True, "no finite number"),
        ("stsb", float("nan"), "no finite number"),
        ("squad", [3, 4], None),
        ("squad", "x", "not two places from 0 to 2"),
        ("squad", 5, "not two places"),
        ("squad", [3, 999], "not two places"),
        ("squad", [0, 3], "a label in its padding"),
    ],
)
def test_labels_that_are_values_or_places(world, tmp_path, task, label, words):
    """Of an answer, they are places in the file's own tokens, of which the first two are padding."""
    file = tmp_path / "calibration.json"
    example = {"input_ids": [1, 1, 5, 6, 7], "attention_mask": [0, 0, 1, 1, 1], "label": label}
    file.write_text(json.dumps({"examples": [example]}))
    built, tokenizer = configured([f"task={task}"]).task.build(), load_tokenizer(world / "checkpoint")
    if words is None:
        (kept,) = read_calibration(str(file), built, tokenizer, tiny_model(), labels=True).examples
        assert kept["label"] == ([1, 2] if task == "squad" else label)
        return
    with pytest.raises(UserError, match=words) as error:
        read_calibration(str(file), built, tokenizer, tiny_model(), labels=True)
    assert "example 0" in str(error.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"attention_mask": [1, 1]}, "example 1 has no attention_mask of 3 zeros and ones"),
        ({"attention_mask": [1, 1, 2]}, "example 1 has no attention_mask of 3"),
        ({"input_ids": [5] * 65, "token_type_ids": [0] * 65}, "example 1 has 65 tokens, the model reads 64"),
        ({"token_type_ids": [0, 2, 0]}, "example 1 has a token type outside 0 to 1"),
        ({"token_type_ids": [0, -1, 0]}, "example 1 has a token type outside"),
        ({"token_type_ids": [0, 0]}, "example 1 has 2 token_type_ids for 3 tokens"),
        ({"label": 3}, "label 3"),
    ],
)
def test_a_wrong_example(read, changes, words):
    with pytest.raises(UserError, match=words) as error:
        read({"examples": [GOOD, GOOD | changes]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, words",
    [
        *(({"batch_size": size, "examples": [GOOD]}, "batch_size") for size in (-1, 0, 1.5, "a", None)),
        ({"examples": [GOOD, {"input_ids": [5], "label": 0}]}, "give all or none"),
        ({"examples": [[5, 6]]}, "damaged"),
        ({"examples": [5]}, "damaged"),
        ([GOOD], "damaged"),
    ],
)
def test_a_wrong_file(read, content, words):
    with pytest.raises(UserError, match=words):
        read(content)


def test_by_the_model_that_reads_it(read):
    long = {"input_ids": [5] * 63, "label": 0}
    with pytest.raises(UserError, match="63 tokens, the model reads 62"):
        read({"examples": [long]}, "roberta")
    with pytest.raises(UserError, match="token_type_ids, which this model does not take"):
        read({"examples": [GOOD]}, "distilbert")


def test_a_file_in_the_home_folder(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set.json").write_text(json.dumps({"examples": [GOOD]}))
    task, tokenizer = configured(overrides(world)).task.build(), load_tokenizer(world / "checkpoint")
    assert len(read_calibration("~/set.json", task, tokenizer, tiny_model(), labels=True).examples) == 1
