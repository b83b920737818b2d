"""A saved model is the same function when it is loaded, with kprune and without, as narrow layers and as the stock model."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from commands import run_plain
from tampered import QUERY, TAMPERED, edit_config
from tiny import FAMILIES, KEPT_UNITS, narrowed, tiny_batch, tiny_calibration, tiny_model, tiny_tokenizer
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, Trainer, TrainingArguments

import kprune
from kprune.checkpoint import load, save
from kprune.checkpoint.dense import densified
from kprune.models import view_of
from kprune.models.surgery import keep_layers, keep_units
from kprune.plan import Plan

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "format_1"
AUTO = {"classification": AutoModelForSequenceClassification, "span": AutoModelForQuestionAnswering}
FRESH_PROCESS = """
import sys, torch, transformers
from pathlib import Path
from types import SimpleNamespace
sys.modules["kprune"] = None
batch = torch.load("batch", weights_only=True)
out = {}
for folder in sorted(Path("models").iterdir()):
    for name in ("AutoModel", "AutoModelForQuestionAnswering" if "span" in folder.name else "AutoModelForSequenceClassification"):
        model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
        out[folder.name, name] = [value.detach() for value in model(**batch).to_tuple()]
texts = transformers.pipeline("text-classification", "models/bert-classification", trust_remote_code=True)
out["texts"] = texts(["w3 w4 w5", "w90 w8"], top_k=None)
model.save_pretrained("resaved")
transformers.AutoModelForQuestionAnswering.from_pretrained("resaved", trust_remote_code=True)
for folder in sorted(Path("format_1").iterdir()):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    out["format 1", folder.name] = model(**batch).logits.detach()
for folder in sorted(Path("tampered").iterdir()):
    try:
        transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    except ValueError as error:
        out[folder.name] = str(error)
arguments = transformers.TrainingArguments("run", max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True, save_steps=1)
rows = [{"input_ids": torch.full((8,), 5 + i % 3), "labels": i % 3} for i in range(4)]
model = transformers.AutoModelForSequenceClassification.from_pretrained("models/roberta-classification", trust_remote_code=True)
trainer = transformers.Trainer(model, arguments, train_dataset=rows)
trainer.train()
trainer.save_model("trained")
out["trained"] = model.eval()(**batch).logits.detach()
uploaded = []
hub, api = transformers.utils.hub, transformers.utils.hub.hf_api().__class__
hub.create_and_tag_model_card = lambda *args, **kwargs: type("Card", (), {"save": lambda self, path: None})()
api.create_repo = lambda self, repo_id, **kwargs: type("Repo", (), {"repo_id": repo_id})()
api.create_commit = lambda self, operations, **kwargs: uploaded.extend(o.path_in_repo for o in operations)
model.push_to_hub("somebody/model")
out["pushed"] = sorted(uploaded)
uploaded.clear()
model.save_pretrained("pushed", push_to_hub=True, repo_id="somebody/model")
out["saved and pushed"] = sorted(uploaded)
torch.save(out, "out")
"""


def plan_of(model, kept_units, layers_left_out=()):
    return Plan.of(view_of(model), kept_units, layers_left_out)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["classification", "span"])
def test_load_gives_the_same_logits(family, head, tmp_path):
    model, batch = narrowed(family, head), tiny_batch()
    model.config.id2label = {0: "no", 1: "yes", 2: "maybe"} if head == "classification" else model.config.id2label
    loaded = load(save(model, tmp_path / "model"))
    assert torch.equal(loaded(**batch)[0], model(**batch)[0])
    assert loaded.config.id2label == model.config.id2label


def test_plain_transformers_loads_it_in_a_fresh_process(tmp_path):
    """Every family, head and auto class to the last bit, a pipeline, and tampered folders, where kprune is not there."""
    batch, expected = tiny_batch(), {}
    for family in FAMILIES:
        for head, auto in AUTO.items():
            model = narrowed(family, head)
            name = save(model, tmp_path / "models" / f"{family}-{head}", tiny_tokenizer()).name
            expected[name, auto.__name__] = model(**batch).to_tuple()
            expected[name, "AutoModel"] = model.base_model(**batch).to_tuple()[:1]  # a fresh pooler may be added
    for name, (edit, _) in TAMPERED.items():
        edit_config(save(narrowed(), tmp_path / "tampered" / name), edit)
    shutil.copytree(FORMAT_1, tmp_path / "format_1")
    torch.save(batch, tmp_path / "batch")
    run_plain(FRESH_PROCESS, tmp_path)
    out = torch.load(tmp_path / "out", weights_only=True)
    for key, values in expected.items():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(values, out[key], strict=False)), key
    for family in FAMILIES:
        logits = json.loads((FORMAT_1 / family / "logits.json").read_text())
        torch.testing.assert_close(out["format 1", family], torch.tensor(logits))
    inputs = tiny_tokenizer()("w3 w4 w5", return_tensors="pt")
    shown = {entry["label"]: entry["score"] for entry in out["texts"][0]}
    torch.testing.assert_close(
        torch.tensor([shown[f"LABEL_{i}"] for i in range(3)]), narrowed()(**inputs).logits.softmax(-1)[0].detach()
    )
    config = json.loads((tmp_path / "resaved/config.json").read_text())
    assert set(config["auto_map"]) >= {"AutoModel", *(auto.__name__ for auto in AUTO.values())}
    sizes = config["kprune"]["modules"]
    assert sizes["encoder.layer.0.intermediate.dense"] == [32, 3] and sizes[QUERY] == [32, 16]
    for name, (_, message) in TAMPERED.items():
        assert re.search(message, out[name]), name
    for folder in (tmp_path / "trained", tmp_path / "run/checkpoint-2"):
        assert torch.equal(load(folder)(**batch).logits, out["trained"])
    for pushed in ("pushed", "saved and pushed"):
        assert {"config.json", "model.safetensors", "modeling_kprune.py"} <= set(out[pushed])


@pytest.mark.parametrize("family", FAMILIES)
def test_format_1_loads_as_it_was_and_is_saved_as_format_2(family, tmp_path):
    """The logits are on record; another processor rounds them otherwise."""
    expected, batch = torch.tensor(json.loads((FORMAT_1 / family / "logits.json").read_text())), tiny_batch()
    model = load(FORMAT_1 / family)
    torch.testing.assert_close(model(**batch).logits, expected)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path / "by transformers")
    for folder in (save(model, tmp_path / "again"), tmp_path / "by transformers"):
        config = json.loads((folder / "config.json").read_text())
        assert config["kprune"]["format"] == 2 and not {"kprune_format", "kept_heads", "kept_neurons"} & set(config)
        assert "format`: 2" in (folder / "modeling_kprune.py").read_text()
        assert torch.equal(load(folder)(**batch).logits, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_is_the_stock_model_with_zeros_at_the_removed_units(family, tmp_path):
    model, stock, batch = narrowed(family), tiny_model(family, dtype=torch.float32), tiny_batch()
    random_state = torch.get_rng_state()
    folder = save(model, tmp_path / "model", format="dense", plan=plan_of(stock, KEPT_UNITS))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not (folder / "modeling_kprune.py").exists()
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(loaded) is type(stock)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    for ours, theirs, units in zip(view_of(loaded).blocks, view_of(stock).blocks, KEPT_UNITS, strict=True):
        for linear, original in zip(ours.inputs, theirs.inputs, strict=True):
            kept = torch.zeros(theirs.units, ours.width)
            kept[units] = 1
            assert torch.equal(linear.weight, original.weight * kept.view(-1, 1))
        assert torch.equal(ours.output.bias, theirs.output.bias)
    packed = densified(model)  # without the places, the units come first
    torch.testing.assert_close(packed(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)


def test_dense_of_a_model_with_dropped_layers(tmp_path):
    """As DynaBERT's: the kept units of all layers, none in the one that is gone."""
    kept_units, batch = [[1, 3], [1, 5, 40], [], [], [0], [0, 9]], tiny_batch()
    model = narrowed(kept_units=kept_units)
    keep_layers(view_of(model), [0, 2])
    plan = plan_of(tiny_model(), kept_units, layers_left_out=[1])
    folder = save(model, tmp_path / "model", format="dense", plan=plan)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    places = [s.output.weight.any(dim=0).nonzero()[:: s.width, 0] // s.width for s in view_of(loaded).blocks]
    assert [units.tolist() for units in places] == [[1, 3], [1, 5, 40], [0], [0, 9]]


def test_a_dense_copy_is_pruned_again(tmp_path):
    dense = AutoModelForSequenceClassification.from_pretrained(save(narrowed(), tmp_path / "model", format="dense"))
    keep_units(view_of(dense).blocks[0], torch.tensor([0]))
    again = load(save(dense, tmp_path / "again"))
    assert [block.units for block in view_of(again).of_kind("heads")] == [1, 4, 4]
    assert not hasattr(again.config, "kprune_dense")


def test_a_pruned_model_is_fine_tuned_by_the_trainer(tmp_path):
    """The loss falls; what the Trainer saves loads again, here and in plain transformers."""
    torch.manual_seed(0)
    rows = [
        {"input_ids": torch.full((8,), 5 + i % 3), "attention_mask": torch.ones(8).long(), "labels": i % 3}
        for i in range(32)
    ]
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, tiny_calibration().batches(), 0.8, method="kprune")
    arguments = TrainingArguments(
        tmp_path / "run",
        max_steps=30,
        learning_rate=5e-3,
        per_device_train_batch_size=16,
        logging_steps=10,
        save_steps=15,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(outcome.model, arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    trainer.save_model(tmp_path / "tuned")
    for folder in (tmp_path / "tuned", tmp_path / "run/checkpoint-30"):
        loaded, batch = load(folder), tiny_batch()
        assert [block.units for block in view_of(loaded).of_kind("neurons")] == outcome.kept_neurons
        assert torch.equal(loaded(**batch).logits, outcome.model.eval()(**batch).logits)
        assert (folder / "modeling_kprune.py").is_file()
