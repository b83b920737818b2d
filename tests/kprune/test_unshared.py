"""Layers that share weights, and the copy in which each has its own."""

import json

import pytest
import torch
from commands import run_plain
from tiny import SHAPE, tiny_batch, tiny_calibration, tiny_model
from transformers import AlbertConfig, AlbertForQuestionAnswering, AlbertForSequenceClassification

import kprune
from kprune.checkpoint import save
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.flops import layer_parameters
from kprune.models.surgery import keep_units

CLASSES = {"classification": AlbertForSequenceClassification, "span": AlbertForQuestionAnswering}


def albert(head="classification", layers=3, groups=1, **settings):
    torch.manual_seed(0)
    shape = SHAPE | {"num_hidden_layers": layers, "embedding_size": 16, "num_hidden_groups": groups}
    model = CLASSES[head](AlbertConfig(**shape, **settings, num_labels=2 if head == "span" else 3))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(("layers", "groups"), [(3, 1), (7, 3), (14, 10), (4, 4)])
@torch.no_grad()
def test_every_layer_has_its_own_weights_and_computes_what_it_did(layers, groups):
    model = albert(layers=layers, groups=groups)
    own = kprune.unshared(model)
    assert len(model.albert.encoder.albert_layer_groups) == model.config.num_hidden_groups == groups
    assert torch.equal(own(**tiny_batch()).logits, model(**tiny_batch()).logits)
    one = sum(weight.numel() for weight in model.albert.encoder.albert_layer_groups[0].parameters())
    view = view_of(own)
    assert layer_parameters(view) == layers * one
    keep_units(view.blocks[1], torch.arange(0))
    again = view.run(0, *view.embed(tiny_batch()), tiny_batch()).logits
    torch.testing.assert_close(again, own(**tiny_batch()).logits)
    assert (again - model(**tiny_batch()).logits).abs().max() > 0.01


def test_a_shared_model_is_refused_and_the_way_out_is_named():
    with pytest.raises(UserError, match=r"share weights.*kprune.unshared\(model\)"):
        kprune.prune(albert(), tiny_calibration().batches(), flops_reduction=0.5)
    with pytest.raises(UserError, match="has a module encoder.albert_layer_groups.0.albert_layers.1"):
        view_of(kprune.unshared(albert(inner_group_num=2)))


@torch.no_grad()
def test_layers_of_another_family_and_weights_within_a_layer():
    model = tiny_model()
    layer = model.bert.encoder.layer
    layer[1] = layer[0]
    layer[2].attention.self.key.weight = layer[2].attention.self.query.weight
    layer[2].attention.self.value.weight.requires_grad_(False)
    own = kprune.unshared(model)
    view_of(own)
    torch.testing.assert_close(own(**tiny_batch()).logits, model(**tiny_batch()).logits, rtol=0, atol=0)
    assert layer[1] is layer[0]
    assert [p.requires_grad for p in own.parameters()].count(False) == 1


FRESH_PROCESS = """
import sys, torch, transformers
from pathlib import Path
sys.modules["kprune"] = None
batch, out = torch.load("batch", weights_only=True), {}
for folder in sorted(Path("models").iterdir()):
    auto = transformers.AutoModelForQuestionAnswering if "span" in folder.name else transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(folder, trust_remote_code="dense" not in folder.name)
    with torch.no_grad():
        out[folder.name] = list(model(**batch).to_tuple())
torch.save(out, "out")
"""


@torch.no_grad()
def test_plain_transformers_loads_what_is_left_in_a_fresh_process(tmp_path):
    """With an attention and an FFN that lost everything, as the pruned model and as the stock class."""
    expected = {}
    for head in CLASSES:
        outcome = kprune.prune(
            kprune.unshared(albert(head)), tiny_calibration().batches(), flops_reduction=0.5, method="magnitude"
        )
        view = view_of(outcome.model)
        keep_units(view.named("0.attention"), torch.arange(0))
        keep_units(view.named("1.ffn"), torch.arange(0))
        expected[head] = expected[f"{head}-dense"] = list(outcome.model(**tiny_batch()).to_tuple())
        save(outcome.model, tmp_path / "models" / head)
        save(outcome.model, tmp_path / "models" / f"{head}-dense", format="dense")
    config = json.loads((tmp_path / "models/span/config.json").read_text())
    assert config["num_hidden_groups"] == 3
    torch.save(tiny_batch(), tmp_path / "batch")
    run_plain(FRESH_PROCESS, tmp_path)
    out = torch.load(tmp_path / "out", weights_only=True)
    for head, answers in expected.items():
        for ours, theirs in zip(answers, out[head], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_norm_that_is_none_is_refused(tmp_path):
    model = kprune.unshared(albert())
    outcome = kprune.prune(model, tiny_calibration().batches(), flops_reduction=0.5, method="magnitude")
    keep_units(view_of(outcome.model).named("0.attention"), torch.arange(0))
    file = outcome.save(tmp_path / "model") / "config.json"
    config = json.loads(file.read_text())
    emptied = config["kprune"]["emptied"]["encoder.albert_layer_groups.0.albert_layers.0.attention"]
    assert emptied["norm"] == "LayerNorm"
    for norm in ("query", "none", 3):
        emptied["norm"] = norm
        file.write_text(json.dumps(config))
        with pytest.raises(UserError, match="norm is query|the model does not have"):
            kprune.load(file.parent)


def test_positions_that_transformers_leaves_out_are_refused():
    model = tiny_model()
    model.config.position_embedding_type = "absolute"
    view_of(model)
    model.config.position_embedding_type = "relative_key"
    with pytest.raises(UserError, match="says position_embedding_type=relative_key.*give a model with"):
        view_of(model)
