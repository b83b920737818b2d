"""Language tasks: what is scored, and what is drawn."""

import math

import numpy as np
import pytest
import torch
from language import POSITIONS, ids_of, language, overrides, texts_of, tiny_llama, word_tokenizer, words, write_lines

from experiments.config.cell import configured
from experiments.inputs import hub, subject
from experiments.inputs.calibration import draw_calibration
from experiments.inputs.checkpoints import load_model
from experiments.inputs.drawing import Amount, draw_texts
from experiments.inputs.texts import CALIBRATION, HubTexts
from experiments.scoring.evaluation import evaluate
from kprune.errors import UserError

BY_TOKENS = "calibration.tokens=100"


# --- what is scored --------------------------------------------------------------------------------------------------


def test_perplexity_by_hand(language_world):
    """Disjoint windows from the start, the tail dropped, every window's mean loss counted alike."""
    task, model, tokenizer = language(language_world).task.build(), tiny_llama(), word_tokenizer()
    ids = torch.tensor(tokenizer((language_world / "evaluation.txt").read_text())["input_ids"])
    assert len(ids) == 210
    losses = []
    for start in range(0, 208, 16):
        window = ids[start : start + 16]
        with torch.no_grad():
            logs = model(input_ids=window[None]).logits[0].log_softmax(-1)
        losses.append(-sum(logs[i, window[i + 1]].item() for i in range(15)) / 15)
    assert evaluate(model, task, tokenizer) == pytest.approx(math.exp(sum(losses) / 13), rel=1e-5)
    evaluation = task.evaluation(tokenizer)
    assert (evaluation.size, evaluation.window, evaluation.first_token) == (13, 16, "none")
    assert evaluation.data == str(language_world / "evaluation.txt") and evaluation.split == "evaluation.txt"


def test_a_first_token_stands_once_before_the_text(language_world):
    evaluation = language(language_world).task.build().evaluation(word_tokenizer(first=True))
    assert evaluation.first_token == "once"
    assert [window["input_ids"].count(2) for window in evaluation.examples] == [1] + 12 * [0]


def test_lines_of_a_file_are_joined_and_the_number_of_windows_is_a_setting(language_world, tmp_path):
    lines = write_lines(tmp_path / "lines.jsonl", [words(10, seed=i) for i in range(9)])
    task = language(language_world, f"task.evaluation_file={lines}", "task.windows=3").task.build()
    evaluation, tokenizer = task.evaluation(word_tokenizer()), word_tokenizer()
    whole = [token for i in range(9) for token in tokenizer(words(10, seed=i))["input_ids"]]
    assert [token for window in evaluation.examples for token in window["input_ids"]] == whole[:48]


@pytest.mark.parametrize("given, window", [("null", POSITIONS), ("32", 32)])
def test_the_window_is_what_the_model_reads_unless_given(language_world, given, window):
    task = language(language_world, f"task.window={given}").task.build()
    load_model(language_world / "checkpoint", task)
    assert task.window == task.max_length == task.average_length == window
    assert task.evaluation(word_tokenizer()).window == window


def test_the_window_is_2048_at_most_unless_given(language_world):
    task = language(language_world, "task.window=null").task.build()
    task.fit(8192, "a model")
    assert task.window == 2048


def test_flops_are_counted_at_a_length_of_ones_own(language_world):
    assert language(language_world, "task.average_length=40").task.build().average_length == 40


def test_c4_is_the_first_documents_joined_by_a_blank(mirror, write_split):
    write_split("allenai/c4", "en", "validation", {"text": [words(6, seed=i) for i in range(9)]})
    settings = configured(["task=c4", "task.window=5", "task.documents=3", "task.windows=2"]).task
    evaluation, tokenizer = settings.build().evaluation(word_tokenizer()), word_tokenizer()
    whole = tokenizer(" ".join(words(6, seed=i) for i in range(3)))["input_ids"]
    assert [token for window in evaluation.examples for token in window["input_ids"]] == whole[:10]
    assert evaluation.data == "allenai/c4 (en, validation)"


def test_of_the_hubs_many_files_one_is_read(monkeypatch, tmp_path):
    """C4 has a thousand files; the hub is asked for one, and only its lines are read."""
    (tmp_path / "en").mkdir()
    write_lines(tmp_path / "en/c4-train.00000-of-01024.json.gz".replace(".gz", ""), ["one", "two"])
    asked = []
    monkeypatch.setenv("KPRUNE_MIRROR", "")
    monkeypatch.setattr(hub, "_from_hub", lambda name, kind, files, payload: asked.append(files) or tmp_path)
    monkeypatch.setattr(hub.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = HubTexts("allenai/c4", "en", "train", hub_file="en/c4-train.00000-of-01024.json")
    assert list(source.read().documents) == ["one", "two"]
    assert asked == [("README.md", "en/c4-train.00000-of-01024.json")]


# --- what is drawn ---------------------------------------------------------------------------------------------------


def inside(window, document):
    return any(document[start : start + len(window)] == window for start in range(len(document) - len(window) + 1))


def test_a_window_lies_inside_a_document_that_is_longer_than_it():
    texts = texts_of([30, 8, 50, 16, 17, 9, 40])
    drawn, draw = draw_texts(texts, word_tokenizer(), 16, Amount(4, 0), seed=1)
    assert draw == "windows" and len(drawn) == 4 and all(len(window) == 16 for window in drawn)
    found = [[inside(window, document) for document in ids_of(texts)].index(True) for window in drawn]
    assert sorted(found) == [0, 2, 4, 6], "a document each, and none that is as long as a window or shorter"


def test_whole_documents_are_drawn_if_too_few_are_longer_than_a_window():
    texts = texts_of([20, 8, 9, 1, 10])
    drawn, draw = draw_texts(texts, word_tokenizer(), 16, Amount(3, 0), seed=0)
    cut = [ids[:16] for ids in ids_of(texts)]
    assert draw == "documents" and len(drawn) == 3 and all(ids in cut and len(ids) > 1 for ids in drawn)
    everything, _ = draw_texts(texts, word_tokenizer(), 16, Amount(9, 0), seed=0)
    assert sorted(everything) == sorted(ids for ids in cut if len(ids) > 1), "at most as many as there are"


def test_windows_of_one_text_lie_at_random_places():
    texts = texts_of([100])
    drawn, draw = draw_texts(texts, word_tokenizer(), 16, Amount(20, 0), seed=0)
    (ids,) = ids_of(texts)
    assert draw == "running text" and len(drawn) == 20 and all(inside(window, ids) for window in drawn)
    assert len(set(map(tuple, drawn))) > 5


def test_seeds_draw_and_draw_again():
    draws = [draw_texts(texts_of([40] * 20), word_tokenizer(), 16, Amount(5, 0), seed)[0] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_at_most_so_many_tokens_are_drawn():
    texts = texts_of([10] * 20)
    assert len(draw_texts(texts, word_tokenizer(), 16, Amount(None, 69.0), 0)[0]) == 6
    assert len(draw_texts(texts, word_tokenizer(), 8, Amount(None, 69.0), 0)[0]) == 8
    assert len(draw_texts(texts_of([90]), word_tokenizer(), 8, Amount(None, 69.0), 0)[0]) == 8
    with pytest.raises(UserError, match="calibration.tokens=9 is less than one example"):
        draw_texts(texts, word_tokenizer(), 16, Amount(None, 9.0), 0)


def test_what_was_drawn_is_told(language_world, cached):
    config = language(language_world)
    found = subject.subject_for(config)
    drawn = subject.calibration_for(config.calibration, 0, found, labels=False)
    assert (drawn.data, drawn.texts, drawn.window, drawn.draw) == (
        str(language_world / "calibration.jsonl"),
        20,
        16,
        "windows",
    )
    assert len(drawn.examples) == 8


def test_texts_are_128_unless_tokens_or_a_file_are_asked_for(language_world):
    default = [entry for entry in overrides(language_world) if not entry.startswith("calibration")]
    for more, examples, variant in (
        ([], 128, {}),
        ([BY_TOKENS], None, {"tokens": 100}),
        (["calibration.file=set.json"], None, {"file": "set"}),
        (["calibration.examples=null"], None, {"tokens": 100000}),
        (["calibration.examples=9"], 9, {"examples": 9}),
    ):
        config = configured([*default, *more])
        assert (config.calibration.examples, config.variant.plain()) == (examples, variant)


def test_calibration_data_name_a_variant_unless_they_are_the_tasks_own(language_world):
    config = configured(["task=wikitext2", "calibration.data=c4"])
    assert config.variant.plain() == {} and config.calibration.data is None
    file = f"calibration.data={language_world / 'calibration.jsonl'}"
    assert configured(["task=wikitext2", file]).variant.plain() == {"data": "calibration"}


def test_wikitext2_as_calibration_is_one_text(mirror, write_split):
    write_split("Salesforce/wikitext", "wikitext-2-raw-v1", "train", {"text": [words(9, seed=i) for i in range(9)]})
    texts = CALIBRATION["wikitext2"].read()
    assert texts.documents == ["\n\n".join(words(9, seed=i) for i in range(9))]


def test_an_encoder_task_on_one_text_takes_a_file(language_world, tmp_path, tokenizer):
    settings = configured(["task=sst2"]).task
    file = write_lines(tmp_path / "texts.jsonl", ["a cat sat", "it rains", "snow"])
    calibration = configured(["task=sst2", f"calibration.data={file}", "calibration.examples=2"]).calibration
    drawn = draw_calibration(settings.build(), tokenizer, calibration, 0, labels=False)
    wanted = tokenizer(["a cat sat", "it rains", "snow"])["input_ids"]
    assert len(drawn.examples) == 2 and all(example["input_ids"] in wanted for example in drawn.examples)
    assert drawn.data == str(file) and drawn.draw == "documents"


def test_an_encoder_task_reads_a_text_a_line(tmp_path, tokenizer):
    (tmp_path / "texts.txt").write_text("a cat sat\n\nit rains\nsnow\n")
    config = configured(["task=sst2", f"calibration.data={tmp_path / 'texts.txt'}", "calibration.examples=9"])
    drawn = draw_calibration(config.task.build(), tokenizer, config.calibration, 0, labels=False)
    wanted = tokenizer(["a cat sat", "it rains", "snow"])["input_ids"]
    assert sorted(example["input_ids"] for example in drawn.examples) == sorted(wanted)


def test_random_places_reach_both_ends():
    ids = ids_of(texts_of([10]))[0]
    drawn, _ = draw_texts(texts_of([10]), word_tokenizer(), 8, Amount(30, 0), seed=0)
    assert {tuple(window) for window in drawn} == {tuple(ids[start : start + 8]) for start in range(3)}
    assert np.isin(drawn, ids).all()
