import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_batch, tiny_calibration, tiny_model

from kprune.algorithm import KPrune
from kprune.checkpoint import load, save
from kprune.errors import UserError
from kprune.objectives import objective_of
from kprune.pruner import Budget, PruningData

FRESH_PROCESS = """
import sys, torch, transformers
sys.modules["kprune"] = None
batch = torch.load(sys.argv[2], weights_only=True)
for name in sys.argv[3:]:
    model = getattr(transformers, name).from_pretrained(sys.argv[1], trust_remote_code=True)
torch.save(model(**batch)[0].detach(), sys.argv[2] + ".out")
"""


def pruned(family, head="classification", reduction=0.8):
    model = tiny_model(family, head, dtype=torch.float32)
    return KPrune().prune(model, objective_of(model), PruningData(tiny_calibration()), Budget(reduction, 8.0)).model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["classification", "span"])
def test_load_gives_the_same_logits(family, head, tmp_path):
    model, batch = pruned(family, head), tiny_batch()
    model.config.id2label = {0: "no", 1: "yes", 2: "maybe"} if head == "classification" else model.config.id2label
    loaded = load(save(model, tmp_path / "model"))
    assert torch.equal(loaded(**batch)[0], model(**batch)[0])
    assert loaded.config.id2label == model.config.id2label


@pytest.mark.parametrize("family, head", [("bert", "span"), ("distilbert", "classification")])
def test_plain_transformers_loads_it_in_a_fresh_process(family, head, tmp_path):
    model, batch = pruned(family, head), tiny_batch()
    save(model, tmp_path / "model")
    torch.save(batch, tmp_path / "batch")
    auto = "AutoModelForQuestionAnswering" if head == "span" else "AutoModelForSequenceClassification"
    script = tmp_path / "script.py"
    script.write_text(FRESH_PROCESS)
    command = [sys.executable, script, tmp_path / "model", tmp_path / "batch", "AutoModel", auto]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "batch.out"), model(**batch)[0])


def test_damage_is_one_clear_error(tmp_path):
    folder = save(pruned("bert"), tmp_path / "model")
    with pytest.raises(UserError, match="has no config.json"):
        load(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"kept_neurons": [n + 1 for n in config["kept_neurons"]]}))
    with pytest.raises(UserError, match="disagree about"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"kept_heads": [1]}))
    with pytest.raises(UserError, match="1 kept_heads for 3 layers"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config))
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


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("kprune.checkpoint.saving.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(pruned("bert"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
