"""A relative position bias, [examples, heads, T, T] for all layers: a layer that loses heads reads those that it still has."""

import copy
import json

import pytest
import torch
from commands import run_plain
from tiny import SHAPE as SHAPE_OF_ALL
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    NomicBertConfig,
    NomicBertForSequenceClassification,
)

from kprune import prune
from kprune.checkpoint import become_pruned, load, save
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.copies import frozen_copy, frozen_shared_copy
from kprune.models.masks import masked
from kprune.models.surgery import keep_units, take_units
from kprune.plan import Plan

SHAPE = SHAPE_OF_ALL | {"pad_token_id": 1}
KEPT_HEADS = [[1, 3], [], [0, 2, 3]]
AUTO = {"classification": AutoModelForSequenceClassification, "span": AutoModelForQuestionAnswering}


def mpnet(head="classification", **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model("mpnet", **SHAPE | {"num_labels": 2 if head == "span" else 3} | settings)
    model = AUTO[head].from_config(config)
    # Large enough to change the order of the attention's scores.
    torch.nn.init.normal_(model.mpnet.encoder.relative_attention_bias.weight, std=3)
    return model.eval()


def batch(examples=3):
    ids = torch.randint(5, 99, (examples, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1:, 7:] = 0
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}


def without_heads(model, kept=KEPT_HEADS):
    """A copy with these heads, pruned physically."""
    pruned = copy.deepcopy(model)
    for block, heads in zip(view_of(pruned).of_kind("heads"), kept, strict=True):
        keep_units(block, torch.tensor(heads, dtype=torch.long))
    return become_pruned(pruned)


@torch.no_grad()
def masked_answer(model, kept):
    view = view_of(model)
    masks = [torch.ones(block.units) for block in view.blocks]
    for block, heads in zip(view.of_kind("heads"), kept, strict=True):
        masks[view.blocks.index(block)] = torch.isin(torch.arange(4), torch.tensor(heads)).float()
    with masked(view, masks):
        return model(**batch())[0]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_pruning_again_keeps_to_the_heads_of_the_whole_model(tmp_path):
    """Heads 1 and 3, then the second of them: head 3, in memory, loaded, and in every kind of copy."""
    model = mpnet()
    expected = masked_answer(model, [[3], [], [0, 3]])
    again = [[1], [], [0, 2]]
    once = without_heads(model)
    assert [block.heads for block in view_of(once).of_kind("heads")] == [[1, 3], None, [0, 2, 3]]
    for start in (once, load(save(once, tmp_path / "once")), frozen_copy(once), frozen_shared_copy(once)):
        twice = without_heads(start, again)
        close(twice(**batch())[0], expected)
        close(start(**batch())[0], masked_answer(model, KEPT_HEADS))
    config = json.loads((save(twice, tmp_path / "twice") / "config.json").read_text())
    assert config["kprune"]["heads"] == {
        "encoder.layer.0.attention.attn": {"position_bias": [3]},
        "encoder.layer.2.attention.attn": {"position_bias": [0, 3]},
    }
    close(load(tmp_path / "twice")(**batch())[0], expected)


@torch.no_grad()
def test_what_was_pruned_is_pruned_again_in_one_call(tmp_path):
    """In memory, loaded by kprune, and by transformers with the folder's copy of the modeling file."""
    once = without_heads(mpnet(), [[1, 3], [1, 2, 3], [0, 2, 3]])
    folder = save(once, tmp_path / "once")
    copied = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    for start in (once, load(folder), copied):
        outcome = prune(start, [batch(8)], flops_reduction=0.4, method="magnitude")
        view = view_of(start)
        masks = [
            torch.isin(torch.arange(block.units), torch.tensor(outcome.plan.kept[block.name], dtype=torch.long)).float()
            for block in view.blocks
        ]
        assert any(0 < mask.sum() < len(mask) for block, mask in zip(view.blocks, masks, strict=True) if block.heads)
        with masked(view, masks):
            expected = start(**batch())[0]
        close(outcome.model(**batch())[0], expected)
        close(load(outcome.save(tmp_path / "twice"))(**batch())[0], expected)


@torch.no_grad()
def test_a_dense_copy_has_every_head_at_its_place(tmp_path):
    """Whatever the plan of the last pruning says, which counts the heads that were left before it."""
    once = without_heads(mpnet())
    twice = without_heads(once, [[1], [], [0, 2]])
    kept = [[1], range(48), [], range(48), [0, 2], range(48)]
    for plan in (None, Plan.of(view_of(once), kept)):
        save(twice, tmp_path / "dense", format="dense", plan=plan)
        dense = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense").eval()
        close(dense(**batch())[0], twice(**batch())[0])


@torch.no_grad()
def test_heads_in_another_order_are_the_same_function(tmp_path):
    model = mpnet()
    expected = model(**batch())[0]
    view = view_of(model)
    for block in view.of_kind("heads"):
        take_units(block, torch.tensor([2, 0, 3, 1]))
    close(model(**batch())[0], expected)
    close(view.run(0, *view.embed(batch()), batch())[0], expected)
    close(load(save(become_pruned(model), tmp_path / "model"))(**batch())[0], expected)
    with pytest.raises(UserError, match="can't say that each layer has 4 of 4 heads"):
        save(model, tmp_path / "uniform", format="uniform")


@torch.no_grad()
def test_the_context_has_the_bias_once_for_all_examples_and_layers():
    view = view_of(mpnet())
    hidden, context = view.embed(batch(examples=8))
    bias = context[0]["position_bias"]
    assert bias.shape == (1, 4, 10, 10) and bias.untyped_storage().nbytes() == bias.nbytes
    assert all(context[layer]["position_bias"] is bias for layer in context)
    part = {name: value[2:4] for name, value in batch(examples=8).items()}
    close(view.run(0, hidden[2:4], context.rows(slice(2, 4)), part)[0], view.model(**part)[0])


def test_fewer_heads_have_no_stock_config(tmp_path):
    model = without_heads(mpnet(), [[0, 1]] * 3)
    with pytest.raises(UserError, match="a MPNetConfig can't say that each layer has 2 of 4 heads"):
        save(model, tmp_path / "model", format="uniform")


def test_heads_that_were_cut_otherwise_are_refused(tmp_path):
    model = without_heads(mpnet())
    view_of(model).blocks[0].core.heads_read["heads"] = [1, 1]
    with pytest.raises(
        UserError, match=r"layer.0.attention.attn has 2 heads and reads heads \[1, 1\] of position_bias"
    ):
        save(model, tmp_path / "model")


WRONG = {
    "too large": ("encoder.layer.0.attention.attn", {"position_bias": [1, 4]}, r"lists the heads .*\[1, 4\]"),
    "too few": ("encoder.layer.0.attention.attn", {"position_bias": [1]}, "has 2 heads and reads heads"),
    "no table": ("encoder.layer.0.attention.attn", [1, 3], r"lists the heads \[1, 3\]"),
    "no list": ("encoder.layer.0.attention.attn", {"position_bias": 1}, "lists the heads .*: 1"),
    "no argument": ("encoder.layer.0.attention.attn", {"bias": [1, 3]}, "has no argument bias"),
    "another argument": ("encoder.layer.0.attention.attn", {"attention_mask": [1, 3]}, "among kprune.heads"),
    "another module": ("encoder.layer.0.attention", {"position_bias": [1, 3]}, "among kprune.heads"),
    "no module": ("encoder.layer.9", {"position_bias": [1, 3]}, "the model does not have"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_config_that_lists_other_heads_is_refused(case, tmp_path):
    path, entry, message = WRONG[case]
    file = save(without_heads(mpnet()), tmp_path / "model") / "config.json"
    config = json.loads(file.read_text())
    config["kprune"]["heads"][path] = entry
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load(file.parent)


def test_a_config_without_the_heads_is_refused(tmp_path):
    file = save(without_heads(mpnet()), tmp_path / "model") / "config.json"
    config = json.loads(file.read_text())
    del config["kprune"]["heads"]
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="remove heads with kprune alone"):
        load(file.parent)


FRESH_PROCESS = """
import sys, torch, transformers
from pathlib import Path
sys.modules["kprune"] = None
batch, out = torch.load("batch", weights_only=True), {}
for folder in sorted(Path("models").iterdir()):
    auto = transformers.AutoModelForQuestionAnswering if "span" in folder.name else transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(folder, trust_remote_code=True)
    base = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained(Path("again") / folder.name)
    again = auto.from_pretrained(Path("again") / folder.name, trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(again(**batch)[0], model(**batch)[0])
        assert torch.equal(base(**batch)[0], model.base_model(**batch)[0])
        out[folder.name] = list(model(**batch).to_tuple())
    model.train()(**batch)[0].sum().backward()
torch.save(out, "out")
"""


def test_plain_transformers_loads_it_in_a_fresh_process(tmp_path):
    """NomicBERT, too, which transformers writes by other names of weights than its modules have."""
    models = {f"mpnet-{head}": without_heads(mpnet(head)) for head in AUTO}
    torch.manual_seed(0)
    nomic = NomicBertForSequenceClassification(NomicBertConfig(**SHAPE, num_labels=3)).eval()
    models["nomic"] = without_heads(nomic)
    for name, model in models.items():
        save(model, tmp_path / "models" / name)
    torch.save(batch(), tmp_path / "batch")
    run_plain(FRESH_PROCESS, tmp_path)
    out = torch.load(tmp_path / "out", weights_only=True)
    for name, model in models.items():
        with torch.no_grad():
            for ours, theirs in zip(model(**batch()).to_tuple(), out[name], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        with torch.no_grad():
            close(load(tmp_path / "again" / name)(**batch())[0], out[name][0])


@pytest.mark.parametrize("head", AUTO)
@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
def test_it_is_pruned_with_any_head(head, method, tmp_path):
    outcome = prune(mpnet(head), [batch(8), batch(6)], flops_reduction=0.6, method=method)
    assert 0.6 <= outcome.details["flops_reduction"] < 0.7
    loaded = load(outcome.save(tmp_path / "model"))
    with torch.no_grad():
        close(loaded(**batch())[0], outcome.model(**batch())[0])


def test_a_regression_is_pruned(tmp_path):
    model = mpnet(num_labels=1, problem_type="regression")
    outcome = prune(model, [batch(8)], flops_reduction=0.6, method="kprune_plus")
    with torch.no_grad():
        close(load(outcome.save(tmp_path))(**batch())[0], outcome.model(**batch())[0])


def test_it_exports(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from kprune.checkpoint.onnx import export_onnx

    model = without_heads(mpnet())
    session = onnxruntime.InferenceSession(str(export_onnx(model, tmp_path / "model.onnx")))
    for examples in (2, 5):
        ours = session.run(["logits"], {name: value.numpy() for name, value in batch(examples).items()})[0]
        close(torch.from_numpy(ours), model(**batch(examples)).logits.detach())
