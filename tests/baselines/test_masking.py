"""What SparseGPT and Wanda do to a whole model: which weights, from which inputs, and what is saved."""

import copy
from dataclasses import replace

import pytest
import torch
from language import tiny_llama
from tiny import tiny_batch, tiny_calibration, tiny_labelled, tiny_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
)
from transformers.pytorch_utils import Conv1D

import kprune
from baselines.masking import smallest
from baselines.wanda import least_in_rows
from kprune.errors import UserError
from kprune.methods.registry import find_method
from kprune.models import view_of
from kprune.models.flops import sparsity
from kprune.models.surgery import input_weight, keep_units
from kprune.target import Target

METHODS = ("sparsegpt", "wanda")
DECODER = dict(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    pad_token_id=1,
    bos_token_id=2,
    eos_token_id=3,
)
MODELS = {
    "bert": lambda: tiny_model(dtype=torch.float32),
    "llama": lambda: tiny_llama(vocab_size=99, pad_token_id=1),
    "opt": lambda: OPTForCausalLM(OPTConfig(**DECODER, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3)).eval(),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**DECODER, n_inner=48, initializer_range=0.3)).eval(),
}
PATTERN = Target.parse("2:4")


def model_of(family):
    torch.manual_seed(0)
    return MODELS[family]()


def masked(model, method, asked, calibration=None):
    calibration = calibration or tiny_calibration(24)
    return kprune.prune(model, calibration.batches(), method=method, sparsity=asked)


def linears(model):
    """The linear modules of the layers, by name, found without the view's help."""
    layers = {name: module for name, module in view_of(model).layers.named_modules()}
    return {name: module for name, module in layers.items() if isinstance(module, nn.Linear | Conv1D)}


@pytest.mark.parametrize("asked", [0.5, 0.3, "2:4"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", MODELS)
def test_every_linear_module_of_the_layers_loses_its_share_and_nothing_else_changes(family, method, asked):
    model = model_of(family)
    before = copy.deepcopy(model.state_dict())
    outcome = masked(model, method, asked)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    changed = set()
    for name, module in linears(outcome.model).items():
        zeros = input_weight(module) == 0
        changed.add(id(module.weight))
        if asked == "2:4":
            assert (zeros.unflatten(1, (-1, 4)).sum(dim=2) == 2).all(), name
        elif method == "wanda":
            assert (zeros.sum(dim=1) == round(asked * zeros.shape[1])).all(), name
        else:
            assert zeros.sum() == round(asked * zeros.numel()), name
    assert changed
    for name, parameter in outcome.model.named_parameters():
        assert id(parameter) in changed or torch.equal(parameter, before[name]), name
    share = 0.5 if asked == "2:4" else asked
    assert outcome.details["sparsity"] == sparsity(view_of(outcome.model)) == pytest.approx(share, abs=0.02)
    assert outcome.details["flops_reduction"] == outcome.details["params_reduction"] == 0
    assert outcome.plan.sparsity == Target.of_sparsity(asked) and type(outcome.model) is type(model)
    kept = {block.name: list(range(block.units)) for block in view_of(model).blocks}
    assert outcome.plan.kept == kept and type(outcome.plan).from_json(outcome.plan.to_json()) == outcome.plan


def seen(model, batches):
    """What every linear module of the layers reads of real tokens, by the model's own forward."""
    found, hooks = {}, []
    for name, module in linears(model).items():

        def keep(_, arguments, name=name):
            found.setdefault(name, []).append(arguments[0].reshape(-1, arguments[0].shape[-1])[real])

        hooks.append(module.register_forward_pre_hook(keep))
    with torch.no_grad():
        for batch in batches:
            real = batch["attention_mask"].bool().flatten()
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(values).double() for name, values in found.items()}


@pytest.mark.parametrize("family", MODELS)
def test_inputs_come_from_the_pruned_layers_below_and_the_layer_while_it_is_dense(family):
    model, calibration = model_of(family), tiny_calibration(24)
    pruned = masked(model, "wanda", 0.5, calibration).model
    dense_masks = 0
    for layer in range(len(view_of(model).layers)):
        mixed = copy.deepcopy(pruned)
        view_of(mixed).layers[layer].load_state_dict(view_of(model).layers[layer].state_dict())
        of_mixed, of_dense = (seen(m, calibration.batches()) for m in (mixed, model))
        for name, module in linears(mixed).items():
            if name.startswith(f"{layer}."):
                weight, zeros = input_weight(module).double(), input_weight(linears(pruned)[name]) == 0
                scores = [weight.abs() * inputs[name].square().sum(dim=0).sqrt() for inputs in (of_mixed, of_dense)]
                assert torch.equal(least_in_rows(scores[0], Target("sparsity", 0.5)), zeros), name
                dense_masks += not torch.equal(least_in_rows(scores[1], Target("sparsity", 0.5)), zeros)
    assert dense_masks, "the dense model's inputs would give the same"


@pytest.mark.parametrize("asked", [0.5, "2:4"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", MODELS)
def test_what_is_saved_is_a_stock_checkpoint_of_the_same_function(family, method, asked, tmp_path):
    outcome = masked(model_of(family), method, asked)
    folder = outcome.save(tmp_path / "saved")
    assert not list(folder.glob("*.py"))
    auto = AutoModelForSequenceClassification if family == "bert" else AutoModelForCausalLM
    loaded = auto.from_pretrained(folder)
    assert type(loaded) is type(outcome.model)
    with torch.no_grad():
        logits = [model(**tiny_batch()).logits for model in (loaded, outcome.model, model_of(family))]
    assert torch.equal(logits[0], logits[1]) and (logits[0] - logits[2]).abs().max() > 0.01
    card = (folder / "README.md").read_text()
    assert "weights of the layers that are zero" in card and "no faster" in card and "small and fast" not in card
    assert kprune.prune(loaded, tiny_calibration().batches(), 0.3).save(folder).is_dir(), "a folder of kprune's own"


@pytest.mark.parametrize("method", METHODS)
def test_padding_and_the_order_of_texts_make_no_difference(method):
    model, plain = tiny_model(), tiny_calibration(24)
    turned = replace(plain, examples=plain.examples[::-1], batch_size=5)
    one, two, again = (masked(model, method, 0.5, each).model for each in (plain, turned, plain))
    for a, b, c in zip(one.parameters(), two.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert torch.equal(a, c)


@pytest.mark.parametrize("method", METHODS)
def test_a_pruned_model_is_masked_too_and_saved_in_its_widths(method, tmp_path):
    model = tiny_model(dtype=torch.float32)
    for block, kept in zip(view_of(model).blocks, ([0, 2], range(0, 48, 2), [], [], [1], range(40)), strict=True):
        keep_units(block, torch.tensor(list(kept), dtype=torch.long))
    narrow = kprune.prune(model, tiny_labelled(examples=24).batches(), 0.1, method="magnitude").model
    outcome = masked(narrow, method, 0.5)
    assert outcome.details["sparsity"] == pytest.approx(0.5, abs=0.02)
    loaded = kprune.load(outcome.save(tmp_path / "narrow"))
    with torch.no_grad():
        assert torch.equal(loaded(**tiny_batch()).logits, outcome.model(**tiny_batch()).logits)


def test_of_equal_scores_the_first_go():
    assert smallest(torch.zeros(2, 4), 3).tolist() == [[True, True, True, False]] * 2
    assert not smallest(torch.zeros(2, 4), 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_pruned_weights_need_what_the_dense_ones_did(method):
    model = tiny_model(dtype=torch.float32).train()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    found = masked(model, method, 0.5).model
    assert found.training and not found.bert.embeddings.word_embeddings.weight.requires_grad
    assert found.bert.encoder.layer[0].output.dense.weight.requires_grad


@pytest.mark.parametrize(
    "method, asked, words",
    [
        ("kprune", {"sparsity": 0.5}, ["kprune removes whole heads and neurons", "wanda or sparsegpt"]),
        ("random", {"sparsity": "2:4"}, ["random removes whole heads and neurons", "share of FLOPs"]),
        ("wanda", {}, ["wanda sets single weights to zero", "no FLOPs", "give sparsity=0.5 or sparsity='2:4'"]),
        ("sparsegpt", {"params_reduction": 0.5}, ["sparsegpt sets", "no parameters", "give sparsity"]),
        ("wanda", {"speedup": 2}, ["saves no time", "give sparsity"]),
        ("wanda", {"sparsity": 0.5, "flops_reduction": 0.5}, ["flops_reduction and sparsity ask for different things"]),
        ("wanda", {"sparsity": 0.5, "uniform": True}, ["uniform=True is about widths"]),
        ("wanda", {"sparsity": 0.5, "grain": 8}, ["grain=8 is about widths"]),
        ("wanda", {"sparsity": 1}, ["sparsity=1 is outside (0, 1)", "such as 0.5, or a pattern such as 2:4"]),
        ("wanda", {"sparsity": "half"}, ["sparsity=half is not a number", "2:4"]),
        ("wanda", {"sparsity": "4:4"}, ["4:4 removes nothing"]),
        ("wanda", {"sparsity": "2:5"}, ["sparsity=2:5", "groups of 5 inputs", "0.attention has 32", "sparsity=0.5"]),
        ("sparsegpt", {"sparsity": "8:32"}, ["0.ffn has 48"]),
    ],
)
def test_what_does_not_fit_is_one_line_before_the_work_starts(method, asked, words, monkeypatch):
    monkeypatch.setattr(type(find_method(method)), "prune", lambda *_: pytest.fail("the work started"))
    with pytest.raises(UserError) as refused:
        kprune.prune(tiny_model(dtype=torch.float32), tiny_calibration().batches(), method=method, **asked)
    message = str(refused.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize("method", METHODS)
def test_inputs_that_are_not_finite_are_one_line(method):
    model = tiny_model(dtype=torch.float32)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[0] = 3e38
    with pytest.raises(UserError, match=r"2\.attention hold NaN or infinity: check the checkpoint's weights"):
        masked(model, method, 0.5)
