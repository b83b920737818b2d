"""What a language task refuses, each in one line and before anything long is done."""

import json
import shutil

import pytest
import torch
from language import language, texts_of, word_tokenizer, words
from tiny import tiny_model

from experiments.config.cell import configured
from experiments.inputs import subject
from experiments.inputs.checkpoints import load_model, load_pretrained, load_tokenizer
from experiments.inputs.drawing import Amount, draw_texts
from experiments.tasks import build_task
from kprune.errors import OutOfReach, UserError


def refused(match, call, *arguments):
    with pytest.raises(UserError, match=match) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given, message",
    [
        (["task=mrpc", "calibration.data=c4"], "mrpc is no task on one text"),
        (["task=squad", "calibration.data=FILE"], "squad is no task on one text"),
        (["task=sst2", "calibration.data=c4"], "c4 calibrates language models"),
        (["task=sst2", "calibration.data=FILE", "method=kwon"], "kwon reads labels, and calibration.data has none"),
        (["task=sst2", "calibration.data=gone.jsonl"], "gone.jsonl does not exist"),
        (["task=wikitext2", "calibration.data=pile"], "calibration.data=pile is unknown: give c4, wikitext2 or a file"),
        (["task=wikitext2", "calibration.data=gone.txt"], "gone.txt does not exist"),
        (["task=wikitext2", "calibration.data=c4", "calibration.file=x.json"], "leave calibration.data out"),
        (["task=wikitext2", "method=kwon"], "kwon reads labels, and wikitext2 has none"),
        (["task=wikitext2", "method=cofi"], "cofi reads labels, and wikitext2 has none"),
        (["task=c4", "task.evaluation_split=train"], "is what c4 scores"),
        (["task=custom_text"], "give task.evaluation_file=FILE"),
        (["task=custom_text", "task.evaluation_file=FILE", "calibration.data=FILE"], "is what custom_text scores"),
        (
            ["task=custom_text", "task.evaluation_file=TEXT", "task.train_file=FILE", "calibration.data=c4"],
            "both name calibration texts",
        ),
        (["task=wikitext2", "task.window=1"], "whole number from 2"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(language_world, given, message):
    files = {"FILE": str(language_world / "calibration.jsonl"), "TEXT": str(language_world / "evaluation.txt")}
    given = [entry.replace("FILE", files["FILE"]).replace("TEXT", files["TEXT"]) for entry in given]
    refused(message, configured, given)


def test_a_window_longer_than_the_model_reads(language_world):
    task = language(language_world, "task.window=65").task.build()
    refused("reads 64 tokens, task.window=65 is longer", load_model, language_world / "checkpoint", task)


def test_texts_shorter_than_a_window(language_world, tmp_path):
    (tmp_path / "short.txt").write_text(words(15))
    task = language(language_world, f"task.evaluation_file={tmp_path / 'short.txt'}").task.build()
    refused("15 tokens, less than a window of 16", task.evaluation, word_tokenizer())
    refused(
        "one text of 15 tokens, less than a window", draw_texts, texts_of([15]), word_tokenizer(), 16, Amount(2, 0), 0
    )


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.txt", "  \n", "has no texts"),
        ("empty.jsonl", "", "has no texts"),
        ("half.jsonl", '{"text": ', "cannot be read"),
        ("character.jsonl", '{"text": "\\ud83d"}', "cannot be read .row 1, has half a character"),
        ("other.jsonl", '{"body": "a"}', "row 0 has no text"),
        ("number.jsonl", '{"text": 3}', "row 0: 3 is no text"),
    ],
)
def test_damaged_files_of_texts(language_world, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    task = language(language_world, f"task.evaluation_file={tmp_path / name}").task.build()
    refused(message, task.evaluation, word_tokenizer())


def test_an_encoder_for_a_language_task_and_a_decoder_without_a_head(language_world, tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "encoder")
    task = language(language_world).task.build()
    refused("holds BertForSequenceClassification, .* model=smollm2", load_model, tmp_path / "encoder", task)
    squad, mrpc = (configured([f"task={name}"]).task.build() for name in ("squad", "mrpc"))
    for each in (squad, mrpc):
        each.max_length = 32
    refused("holds LlamaForCausalLM, mrpc needs one ForSequence", load_model, language_world / "checkpoint", mrpc)
    edit(language_world / "checkpoint", tmp_path / "gemma", model_type="gemma")
    refused("no gemma model ForQuestionAnswering, which squad needs", load_pretrained, tmp_path / "gemma", squad)


def edit(source, target, **entries):
    """A checkpoint's folder once more, its config.json with other entries."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text()) | entries
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_a_tokenizer_of_another_vocabulary(language_world, tmp_path):
    folder = edit(language_world / "checkpoint", tmp_path / "model")
    word_tokenizer(words=61).save_pretrained(folder)
    refused("the tokenizer has 61 tokens, the model 60", load_tokenizer, folder)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "is a mixture of experts"),
        ({"model_type": "qwen3_moe", "num_experts": 8}, "is a mixture of experts"),
        ({"model_type": "mistral", "sliding_window": 8}, "sliding window of 8 tokens.*task.window=8"),
        (
            {"model_type": "qwen2", "sliding_window": 8, "layer_types": ["full_attention"] * 2 + ["sliding_attention"]},
            "sliding window of 8",
        ),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantised .bitsandbytes."),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised .gptq."),
    ],
)
def test_models_that_are_not_supported(language_world, tmp_path, entries, message):
    folder = edit(language_world / "checkpoint", tmp_path / "model", **entries)
    refused(message, load_model, folder, language(language_world).task.build())


@pytest.mark.parametrize(
    "entries",
    [
        {"sliding_window": 16},
        {"sliding_window": 8, "use_sliding_window": False},
        {"sliding_window": 8, "layer_types": ["full_attention"] * 3},
    ],
)
def test_a_sliding_window_that_hides_nothing(language_world, tmp_path, entries):
    load_model(
        edit(language_world / "checkpoint", tmp_path / "model", **entries), language(language_world).task.build()
    )


def test_a_share_beyond_what_the_layers_hold(language_world, cached):
    """It is told before the dense model is scored."""
    found = subject._subject(language(language_world).task, language(language_world).model, torch.device("cpu"))
    config = language(language_world, "of=model", "params_reduction=0.97")
    with pytest.raises(
        OutOfReach, match="embeddings, head, norms and output biases, which stay, are .* of the model's"
    ):
        subject.subject_for(config)
    with pytest.raises(OutOfReach, match="norms and output biases, which stay"):
        subject.subject_for(language(language_world, "params_reduction=0.999"))
    assert "dense_score" not in vars(found)


def test_a_prompt_longer_than_the_model_reads(language_world, cached):
    refused("is more than the 63 tokens", subject.subject_for, language(language_world, "latency.sequence_length=64"))


def test_a_configuration_that_is_not_there_but_another_one(mirror, write_split):
    write_split("Salesforce/wikitext", "wikitext-2-v1", "test", {"text": ["a"]})
    task = build_task(configured(["task=wikitext2"]).task.settings.plain())
    refused(
        "no configuration wikitext-2-raw-v1 in .*, but wikitext-2-v1: give task.config=wikitext-2-v1",
        task.evaluation,
        word_tokenizer(),
    )


def test_a_split_that_is_not_there(mirror, write_split):
    write_split("allenai/c4", "en", "train", {"text": ["a"]})
    task = build_task(configured(["task=c4"]).task.settings.plain())
    refused("allenai/c4 .en. has no split validation: it has train", task.evaluation, word_tokenizer())


def test_a_model_that_guesses_worse_than_chance_is_warned_of(language_world, capsys):
    task = language(language_world).task.build()
    subject.warn_of_chance(task, 59.0, 60)
    assert capsys.readouterr().out == ""
    subject.warn_of_chance(task, 61.0, 60)
    assert "tokenizer" in capsys.readouterr().out
