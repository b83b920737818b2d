"""Reduced precision: what it changes, by how much at most, and what it leaves as it is."""

import pytest
import torch
import torch.nn.functional as F
from decoders import tiny_decoder
from tiny import tiny_batch, tiny_calibration, tiny_labelled, tiny_model

import kprune
from experiments.scoring.held_out import measure
from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.divergence import held_out_divergence
from kprune.errors import UserError
from kprune.methods.registry import build
from kprune.models.inputs import call
from kprune.objectives import objective_of
from kprune.precision import check_reduced, full_precision, linear_layers
from kprune.solve.least_squares import LeastSquares

ROUNDING = 2.0**-9
"""The largest relative error of a number in bfloat16, which is coarser than TF32."""
METHODS = ["kprune", "kprune_plus", "kprune_plus_fast", "kwon", "flap", "oscar", "wanda_sp"]


@pytest.fixture
def coarse():
    try:
        check_reduced(torch.device("cpu"), torch.float32)
    except UserError:
        pytest.skip("this processor has no coarser float32 products")


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def within(error, left, right, rounded=True):
    """Assert that an error is that of a product that was rounded as its factors were, but for the rounding of float32 sums."""
    most = left.abs() @ right.abs()
    assert (error.abs() <= 3.1 * ROUNDING * most).all()
    assert not rounded or error.abs().max() > 1e-6 * most.max(), "nothing was rounded"


@pytest.mark.parametrize("by_flag", [False, True])
def test_the_products_of_a_linear_layer_are_as_far_off_as_rounded_factors_are(coarse, by_flag, monkeypatch):
    """By casts, as on a CPU, and by torch's flag, as on a GPU, which leaves some products of a CPU as they are."""
    if by_flag:
        monkeypatch.setattr("kprune.precision._factor", lambda x: x)
    x, weight, bias, slope = tensors((2, 50, 96), (80, 96), (80,), (2, 50, 80))
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    with full_precision(), linear_layers("reduced"):
        y = F.linear(x, weight, bias)
    # The backward pass is reduced wherever it is asked for.
    gradients = torch.autograd.grad(y, (x, weight, bias), slope)
    x, weight, bias = x.detach(), weight.detach(), bias.detach()
    within(y.detach() - (x @ weight.T + bias), x, weight.T, not by_flag)
    within(gradients[0] - slope @ weight, slope, weight, not by_flag)
    rows = slope.flatten(0, 1)
    within(gradients[1] - rows.T @ x.flatten(0, 1), rows.T, x.flatten(0, 1), not by_flag)
    torch.testing.assert_close(gradients[2], rows.sum(dim=0))


def test_what_is_solved_is_not_reduced(coarse):
    features, targets = tensors((300, 96), (300, 32))
    found = []
    for precision in ("full", "reduced"):
        with full_precision(), linear_layers(precision):
            squares = LeastSquares.empty(96, 32, torch.device("cpu"))
            squares.add(features, targets)
            found.append([squares.lower, squares.cross, squares.solve(1e-6)[0], features @ features.T])
    for full, reduced in zip(*found, strict=True):
        assert torch.equal(full, reduced)


@pytest.mark.parametrize("model", [tiny_model(dtype=torch.float32), tiny_decoder("gpt2").float()])
def test_the_states_of_a_model(coarse, model):
    """GPT-2's linear modules are of another class, which multiplies by another function of torch."""
    batch = tiny_batch()
    found = []
    for precision in ("full", "reduced"):
        with torch.no_grad(), full_precision(), linear_layers(precision):
            found.append(call(model, batch).logits[batch["attention_mask"].sum(dim=1) == batch["input_ids"].shape[1]])
    error = (found[1] - found[0]).norm() / found[0].norm()
    assert 1e-5 < error < 0.03


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_keeps(coarse, name):
    """Of a model whose units are far apart, the same but for a few; what is left is as close to the dense model."""
    model, unseen = tiny_model(dtype=torch.float32), tiny_calibration(examples=40, seed=5)
    objective, calibration = objective_of(model), tiny_labelled(examples=48)
    found = []
    for precision in ("full", "reduced"):
        data = PruningData(calibration, precision=precision)
        found.append(build(name, {}).prune(Job(model, objective, data, FlopsBudget(0.5, 8.0))))
    full, reduced = found
    differ = sum(len(set(units) ^ set(reduced.plan.kept[block])) for block, units in full.plan.kept.items()) / 2
    assert differ <= 0.1 * sum(map(len, full.plan.kept.values()))
    one, other = (held_out_divergence(outcome.model, model, objective, unseen, 2.0) for outcome in found)
    assert other <= 1.25 * one


def test_the_setting_of_the_library(coarse):
    model = tiny_model(dtype=torch.float32)
    batches = tiny_calibration().batches()
    full, reduced = (kprune.prune(model, batches, 0.5, "kprune_plus", precision=p) for p in ("full", "reduced"))
    pairs = zip(full.model.state_dict().values(), reduced.model.state_dict().values(), strict=True)
    assert any(one.shape != other.shape or not torch.equal(one, other) for one, other in pairs)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    "method, precision, message",
    [
        ("magnitude", "reduced", "method magnitude does not run the model"),
        ("random", "reduced", "method random does not run the model"),
        ("kprune", "half", "precision='half' is unknown: use full or reduced"),
    ],
)
def test_what_is_refused(method, precision, message):
    model = tiny_model(dtype=torch.float32)
    with pytest.raises(UserError, match=message):
        kprune.prune(model, tiny_calibration().batches(), 0.5, method, precision=precision)


def test_a_model_in_double_precision_is_refused():
    with pytest.raises(UserError, match=r"is for models in float32, and this one is in torch.float64"):
        kprune.prune(tiny_model(), tiny_calibration().batches(), 0.5, precision="reduced")


def test_a_processor_without_coarser_products_is_told_before_the_work(monkeypatch):
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    with pytest.raises(UserError, match=r"not faster on this CPU, .*: leave it out"):
        kprune.prune(tiny_model(dtype=torch.float32), tiny_calibration().batches(), 0.5, precision="reduced")


@pytest.mark.real_data
def test_a_real_model_is_as_close_to_the_dense_one(coarse):
    """Units of nearly the same score change places: one is some percent closer on one task, and farther on another."""
    methods = ["kprune_plus_fast", "kprune_plus_fast:precision=reduced"]
    rows = measure("gate", "mrpc", methods, 0.8, ["model=minilm", "calibration.tokens=10000"])
    full, reduced = (row["held_out_divergence"] for row in rows)
    assert reduced != full and reduced < 1.1 * full
