import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, KEPT_UNITS, narrowed, tiny_batch, tiny_calibration, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from kprune.budgets import FlopsBudget
from kprune.checkpoint import load, save
from kprune.checkpoint.dense import densified
from kprune.contract import Job, PruningData
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.models import view_of
from kprune.models.surgery import keep_layers, keep_units
from kprune.objectives import objective_of

AUTO = {"classification": AutoModelForSequenceClassification, "span": AutoModelForQuestionAnswering}
FRESH_PROCESS = """
import sys, torch, transformers
from pathlib import Path
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
out["widths"] = (model.config.kept_heads, model.config.kept_neurons)
transformers.AutoModelForQuestionAnswering.from_pretrained("resaved", trust_remote_code=True)
for folder in sorted(Path("tampered").iterdir()):
    try:
        transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    except ValueError as error:
        out[folder.name] = str(error)
torch.save(out, "out")
"""
# What is done to config.json, and what the error says.
TAMPERED = {
    "one_neuron_more": (
        lambda c: c | {"kept_neurons": [n + 1 for n in c["kept_neurons"][:2]] + [16]},
        "disagree about",
    ),
    "a_head_out_of_nothing": (lambda c: c | {"kept_heads": [1, *c["kept_heads"][1:]]}, "disagree about"),
    "no_heads": (lambda c: c | {"kept_heads": [0, 0, 0]}, "disagree about"),
    "one_layer": (lambda c: c | {"kept_heads": [1]}, "1 kept_heads for 3 layers"),
    "negative": (lambda c: c | {"kept_heads": [-1, 2, 4]}, "-1 in kept_heads, of 4 at most"),
    "too_wide": (lambda c: c | {"kept_neurons": [3, 0, 49]}, "49 in kept_neurons, of 48 at most"),
    "fractional": (lambda c: c | {"kept_neurons": [3, 0, 1.5]}, "1.5 in kept_neurons"),
    "widths_missing": (lambda c: {k: v for k, v in c.items() if k != "kept_heads"}, "no list kept_heads"),
    "newer": (lambda c: c | {"kprune_format": 2}, "kprune_format 2, this code reads 1"),
}


@pytest.fixture
def tokenizer():
    words = {word: index for index, word in enumerate(["[UNK]", "[PAD]", *(f"w{i}" for i in range(97))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")


def edit_config(folder, edit):
    path = folder / "config.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["classification", "span"])
def test_load_gives_the_same_logits(family, head, tmp_path):
    model, batch = narrowed(family, head), tiny_batch()
    model.config.id2label = {0: "no", 1: "yes", 2: "maybe"} if head == "classification" else model.config.id2label
    loaded = load(save(model, tmp_path / "model"))
    assert torch.equal(loaded(**batch)[0], model(**batch)[0])
    assert loaded.config.id2label == model.config.id2label


def test_plain_transformers_loads_it_in_a_fresh_process(tmp_path, tokenizer):
    """Every family, head and auto class to the last bit, a pipeline, and tampered folders, where kprune is not there."""
    batch, expected = tiny_batch(), {}
    for family in FAMILIES:
        for head, auto in AUTO.items():
            model = narrowed(family, head)
            name = save(model, tmp_path / "models" / f"{family}-{head}", tokenizer).name
            expected[name, auto.__name__] = model(**batch).to_tuple()
            expected[name, "AutoModel"] = model.base_model(**batch).to_tuple()[:1]  # a fresh pooler may be added
    for name, (edit, _) in TAMPERED.items():
        edit_config(save(narrowed(), tmp_path / "tampered" / name), edit)
    torch.save(batch, tmp_path / "batch")
    # Threads change the last bit, and other tests set them.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment = os.environ | threads | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FRESH_PROCESS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    out = torch.load(tmp_path / "out", weights_only=True)
    for key, values in expected.items():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(values, out[key], strict=False)), key
    inputs = tokenizer("w3 w4 w5", return_tensors="pt")
    shown = {entry["label"]: entry["score"] for entry in out["texts"][0]}
    torch.testing.assert_close(
        torch.tensor([shown[f"LABEL_{i}"] for i in range(3)]), narrowed()(**inputs).logits.softmax(-1)[0].detach()
    )
    assert out["widths"] == ([0, 2, 4], [3, 0, 16])
    config = json.loads((tmp_path / "resaved/config.json").read_text())
    assert set(config["auto_map"]) == {"AutoModel", *(auto.__name__ for auto in AUTO.values())}
    for name, (_, message) in TAMPERED.items():
        assert message in out[name], name


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_widths_are_one_clear_error(name, tmp_path):
    edit, message = TAMPERED[name]
    with pytest.raises(UserError, match=message) as error:
        load(edit_config(save(narrowed(), tmp_path / "model"), edit))
    assert "\n" not in str(error.value) and "save it again" in str(error.value)


def test_damage_is_one_clear_error(tmp_path):
    folder = save(narrowed(), tmp_path / "model")
    with pytest.raises(UserError, match="has no config.json"):
        load(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("classifier.bias")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="classifier.bias"):
        load(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="does not load"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="config.json is damaged"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_is_the_stock_model_with_zeros_at_the_removed_units(family, tmp_path):
    model, stock, batch = narrowed(family), tiny_model(family, dtype=torch.float32), tiny_batch()
    random_state = torch.get_rng_state()
    folder = save(model, tmp_path / "model", format="dense", kept_units=KEPT_UNITS)
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
    folder = save(model, tmp_path / "model", format="dense", kept_units=kept_units)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    places = [s.output.weight.any(dim=0).nonzero()[:: s.width, 0] // s.width for s in view_of(loaded).blocks]
    assert [units.tolist() for units in places] == [[1, 3], [1, 5, 40], [0], [0, 9]]


def test_a_dense_copy_is_pruned_again(tmp_path):
    dense = AutoModelForSequenceClassification.from_pretrained(save(narrowed(), tmp_path / "model", format="dense"))
    keep_units(view_of(dense).blocks[0], torch.tensor([0]))
    assert load(save(dense, tmp_path / "again")).config.kept_heads == [1, 4, 4]


def test_a_pruned_model_is_fine_tuned_by_the_trainer(tmp_path):
    """The loss falls; what the Trainer saves loads again, here and in plain transformers."""
    torch.manual_seed(0)
    rows = [
        {"input_ids": torch.full((8,), 5 + i % 3), "attention_mask": torch.ones(8).long(), "labels": i % 3}
        for i in range(32)
    ]
    model = tiny_model(dtype=torch.float32)
    outcome = KPrune().prune(Job(model, objective_of(model), PruningData(tiny_calibration()), FlopsBudget(0.8, 8.0)))
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
        assert loaded.config.kept_neurons == outcome.kept_neurons
        assert torch.equal(loaded(**batch).logits, outcome.model.eval()(**batch).logits)
        assert (folder / "modeling_kprune.py").is_file()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    model = narrowed()
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fails)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_only_what_kprune_saved_is_replaced(tmp_path):
    folder = tmp_path / "model"
    for format in ("pruned", "dense", "pruned"):
        save(narrowed(), folder, format=format)
    assert (folder / "modeling_kprune.py").is_file()
    tiny_model().save_pretrained(tmp_path / "mine")
    before = sorted((tmp_path / "mine").iterdir())
    with pytest.raises(UserError, match="kprune did not save"):
        save(narrowed(), tmp_path / "mine")
    assert sorted((tmp_path / "mine").iterdir()) == before
    with pytest.raises(UserError, match="format=nonsense is unknown: use pruned or dense"):
        save(narrowed(), tmp_path / "other", format="nonsense")
