"""The retrained methods on families whose layers are not laid out as BERT's."""

import pytest
import torch
from families import CLASSIFIERS, tiny_of
from retrained import RETRAINED
from tiny import tiny_batch, tiny_calibration

from baselines.retrained.dynabert.rewiring import importance, rewire
from baselines.retrained.dynabert.subnetworks import Shape, Subnetwork, extract
from baselines.retrained.ebert import GatedModel
from kprune.budgets import FlopsBudget
from kprune.contract import Job
from kprune.models import view_of
from kprune.models.surgery import output_weight
from kprune.objectives import objective_of

OTHERS = ["mpnet", "deberta-v2", "modernbert", "gpt2", "opt", "llama", "gpt_neox", "phi", "gptj"]
"""Shared position projections, fused and gated modules, transposed weights, flattened batches, groups and no biases."""


def labelled():
    batches = tiny_calibration(8, 4).batches()
    return [{**batch, "labels": torch.arange(4) % 3} for batch in batches]


@pytest.mark.parametrize("case", CLASSIFIERS)
@pytest.mark.parametrize("shape", [Shape(0.5, 1.0), Shape(0.5, 0.67)])
@torch.no_grad()
def test_parts_of_the_shared_weights_are_the_extracted_model(case, shape):
    model, batch = tiny_of(case), tiny_batch()
    expected = extract(model, shape)(**batch).logits
    torch.testing.assert_close(Subnetwork(model, shape)(**batch).logits, expected, rtol=0, atol=1e-12)
    assert (expected - model(**batch).logits).abs().max() > 1e-3


@pytest.mark.parametrize("case", CLASSIFIERS)
@torch.no_grad()
def test_rewiring_leaves_the_function_as_it_was(case):
    model, batch = tiny_of(case), tiny_batch()
    rewired, order = rewire(model, objective_of(model), labelled())
    torch.testing.assert_close(rewired(**batch).logits, model(**batch).logits, rtol=0, atol=1e-10)
    assert any(units != sorted(units) for units in order)


@pytest.mark.parametrize("case", OTHERS)
def test_importance_of_a_neuron_by_finite_differences(case):
    """Of the last layer's neuron 5: its columns of the output projection scaled, and its rows of each input module."""
    model, (batch, _) = tiny_of(case), labelled()
    objective, labels, eps = objective_of(model), batch.pop("labels"), 1e-3

    @torch.no_grad()
    def change(scale):
        """The derivative of the loss by a factor on some weights, which `scale(factor)` multiplies."""
        values = []
        for factor in (1 + eps, 1 - eps):
            scale(factor)
            values.append(objective.loss(objective.read(model(**batch), batch["attention_mask"]), labels))
            scale(1 / factor)
        return ((values[0] - values[1]) / (2 * eps)).abs()

    block = view_of(model).blocks[-1]
    expected = change(lambda factor: output_weight(block)[:, 5].mul_(factor))
    for rows, module in zip(block.site.inputs, block.inputs, strict=True):
        # The parts of a fused module count as one.
        weight = module.weight.T if case == "gpt2" else module.weight
        mine = [part * block.units + 5 for part in range(rows.parts)]

        def scale(factor, weight=weight, bias=module.bias, mine=mine):
            for tensor in (weight, *([] if bias is None else [bias])):
                tensor[mine] *= factor

        expected = expected + change(scale)
    scores = importance(view_of(model), objective, [{**batch, "labels": labels}])
    torch.testing.assert_close(scores[-1][5], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", OTHERS)
@torch.no_grad()
def test_open_gates_leave_the_function_as_it_was(case):
    model, batch = tiny_of(case), tiny_batch()
    expected, gated = model(**batch).logits, GatedModel(model, 8.0).eval()
    gated.threshold.fill_(-1e9)
    torch.testing.assert_close(gated(**batch).logits, expected, rtol=0, atol=1e-12)
    assert len(gated.gates) == len(gated.blocks)


@torch.no_grad()
def test_gates_of_a_decoder_read_more_than_its_first_token():
    """Which is the same in all examples here, and sees nothing of the others."""
    gated, batch = GatedModel(tiny_of("llama"), 8.0).eval(), tiny_batch()
    for predictor in gated.predictors:
        torch.nn.init.normal_(predictor.up.weight, std=10)
    batch["input_ids"][:, 0] = 7
    gated(**batch)
    of_neurons = [gates for block, gates in zip(gated.blocks, gated.gates, strict=True) if block.kind == "neurons"]
    assert all((gates != gates[0]).any() for gates in of_neurons)


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("name", ["dynabert_d", "ebert", "cofi"])
def test_training(name, case, data_for):
    model = tiny_of(case, torch.float32)
    method, budget = RETRAINED[name], FlopsBudget(0.5, 8.0)
    method.check(model, budget)
    outcome = method.prune(Job(model, objective_of(model), data_for(), budget))
    assert torch.isfinite(outcome.model(**tiny_batch()).logits).all()
    assert len(outcome.plan.units) == 6
