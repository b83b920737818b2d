"""What every structured baseline must do on language models, grouped queries among them."""

import copy
import itertools

import pytest
import torch
from decoders import masked_outputs, outputs, prune, tiny_decoder
from tiny import tiny_batch, tiny_calibration

import kprune
from baselines.registry import METHODS
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.checkpoint.dense import densified
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.flops import flops_reduction, params_reduction

OF_UNITS = ("wanda_sp", "flap", "llm_pruner", "oscar")
NAMES = (*OF_UNITS, "shortgpt")
FAMILIES = ("llama", "opt", "gpt2", "gemma2", "granite", "gpt_neox", "phi", "lfm2", "qwen3_5_text")
# FLAP needs output biases, which these can't have.
WITHOUT_BIASES = ("gemma2", "lfm2", "qwen3_5_text")
PAIRS = [
    (name, family)
    for name, family in itertools.product(NAMES, FAMILIES)
    if name != "flap" or family not in WITHOUT_BIASES
]
BUDGETS = [ParametersBudget, lambda share, **more: FlopsBudget(share, 8.0, **more)]


def removed(budget, dense, pruned):
    dense, pruned = view_of(dense), view_of(pruned)
    return params_reduction(dense, pruned) if budget is ParametersBudget else flops_reduction(dense, pruned, 8.0)


@pytest.mark.parametrize("budget", BUDGETS, ids=["parameters", "flops"])
@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_the_budget_is_met_by_less_than_a_unit_or_a_layer(name, family, budget):
    model = tiny_decoder(family)
    before = copy.deepcopy(model.state_dict())
    costs = budget(0.3).costs(view_of(model))
    whole = sum(block.units * costs[block.name].per_unit for block in view_of(model).blocks)
    for share in (0.1, 0.3, 0.6):
        outcome = prune(name, model, budget(share))
        # The fixed parameters are a small part: a unit's share of the units' is an upper bound of its share of all.
        step = 1 / 3 if name == "shortgpt" else max(cost.per_unit for cost in costs.values()) / whole
        assert share - 1e-9 <= removed(budget, model, outcome.model) < share + step + 1e-9
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_masked_is_physically_pruned(name, family):
    """The same weights at their places in the stock model, zeros elsewhere, are the same function; heads went by whole groups."""
    model, batch = tiny_decoder(family), tiny_batch()
    outcome = prune(name, model, ParametersBudget(0.4))
    wide = densified(outcome.model, outcome.plan)
    torch.testing.assert_close(outputs(outcome.model, batch), outputs(wide, batch), rtol=1e-9, atol=1e-9)
    assert (outputs(outcome.model, batch) - outputs(model, batch)).abs().max() > 1e-2
    if name in ("wanda_sp", "llm_pruner"):  # whose weights stay as they were
        expected = masked_outputs(model, outcome, batch)
        torch.testing.assert_close(outputs(outcome.model, batch), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_what_was_pruned(name, tmp_path):
    model, batch = tiny_decoder(), tiny_batch()
    outcome = kprune.prune(model, tiny_calibration().batches(), method=name, params_reduction=0.4)
    expected = outputs(outcome.model, batch)
    outcome.save(tmp_path / "small")
    loaded = kprune.load(tmp_path / "small").double()  # as it was read, in float32
    torch.testing.assert_close(outputs(loaded, batch), expected, rtol=1e-3, atol=1e-4)
    outcome.save(tmp_path / "dense", format="dense")
    stock = type(model).from_pretrained(tmp_path / "dense", dtype=torch.float64)
    torch.testing.assert_close(outputs(stock, batch), expected)


@pytest.mark.parametrize("name", ("wanda_sp", "oscar", "shortgpt"))
def test_a_uniform_model_is_saved_as_the_stock_class(name, tmp_path):
    model, batch = tiny_decoder(), tiny_batch()
    batches = tiny_calibration().batches()
    outcome = kprune.prune(model, batches, method=name, params_reduction=0.4, uniform=True)
    assert outcome.details["params_reduction"] >= 0.4
    outcome.save(tmp_path / "uniform", format="uniform")
    stock = type(model).from_pretrained(tmp_path / "uniform", dtype=torch.float64)
    torch.testing.assert_close(outputs(stock, batch), outputs(outcome.model, batch))


@pytest.mark.parametrize("name", ("wanda_sp", "llm_pruner", "oscar"))
def test_widths_on_whole_grains(name):
    outcome = prune(name, tiny_decoder(), ParametersBudget(0.4, grain=16))
    assert all(neurons % 16 == 0 for neurons in outcome.kept_neurons) and min(outcome.kept_neurons) < 48


@pytest.mark.parametrize("name", ("flap", "llm_pruner"))
def test_layers_that_differ_are_told(name):
    with pytest.raises(UserError, match=f"method {name} does not keep the layers alike"):
        kprune.prune(tiny_decoder(), tiny_calibration().batches(), method=name, params_reduction=0.4, uniform=True)


@pytest.mark.parametrize("name", OF_UNITS)
def test_weights_that_are_not_finite_are_told(name):
    model = tiny_decoder()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(UserError, match="NaN or infinity"):
        prune(name, model, ParametersBudget(0.4))


def test_they_compete_without_retraining():
    assert {METHODS[name].group for name in NAMES} == {"retraining-free"}
