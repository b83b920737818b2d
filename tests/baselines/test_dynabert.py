import copy

import pytest
import torch
from tiny import FAMILIES, HEADS, tiny_batch, tiny_calibration, tiny_model

from baselines.retrained.dynabert import DynaBERT
from baselines.retrained.dynabert.rewiring import importance, rewire
from baselines.retrained.dynabert.subnetworks import Shape, Subnetwork, extract
from kprune.budgets import FlopsBudget
from kprune.models import view_of
from kprune.models.flops import model_flops
from kprune.models.masks import masked
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of


def logits(output):
    return torch.cat([value.flatten() for value in output.to_tuple()])


def labelled(head="classification", batches=2):
    made = tiny_calibration(4 * batches, 4).batches()
    for batch in made:
        size = len(batch["input_ids"])
        batch["labels"] = {
            "classification": torch.arange(size) % 3,
            "regression": torch.linspace(-1, 1, size),
            "span": torch.tensor([[1, 2]] * size),
            "token_classification": batch["input_ids"] % 4,
            "multi_label": torch.tensor([[1, 0, 1]] * size),
        }[head]
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_rewiring_leaves_the_function_as_it_was(family, head):
    model, batch = tiny_model(family, head), tiny_batch()
    rewired, order = rewire(model, objective_of(model), labelled(head))
    torch.testing.assert_close(logits(rewired(**batch)), logits(model(**batch)), rtol=0, atol=1e-12)
    assert any(units != sorted(units) for units in order), "nothing was moved, so the test proves nothing"
    assert all(sorted(units) == list(range(len(units))) for units in order)


def test_importance_is_the_first_order_change_of_the_loss():
    """Against finite differences of masks, for heads; for a neuron, those of its weights scaled."""
    model, (batch,) = tiny_model(), labelled(batches=1)
    objective, view = objective_of(model), view_of(copy.deepcopy(model))
    scores = importance(view, objective, [batch])
    labels, eps = batch["labels"], 1e-5

    def loss(net):
        return objective.loss(objective.read(net(**{k: v for k, v in batch.items() if k != "labels"}), None), labels)

    with torch.no_grad():
        masks = [torch.ones(s.units, dtype=torch.float64) for s in view.blocks]
        values = []
        for step in (eps, -eps):
            masks[2][1] = 1 + step
            with masked(view, masks):
                values.append(loss(view.model))
        torch.testing.assert_close(scores[2][1], ((values[0] - values[1]) / (2 * eps)).abs(), rtol=1e-4, atol=1e-9)
        changes = []
        for incoming in (True, False):
            values = []
            for step in (eps, -eps):
                copied = view_of(copy.deepcopy(model))
                ffn = copied.blocks[3]
                if incoming:
                    ffn.inputs[0].weight[5] *= 1 + step
                    ffn.inputs[0].bias[5] *= 1 + step
                else:
                    ffn.output.weight[:, 5] *= 1 + step
                values.append(loss(copied.model))
            changes.append(((values[0] - values[1]) / (2 * eps)).abs())
        torch.testing.assert_close(scores[3][5], sum(changes), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [Shape(0.5, 1.0), Shape(0.25, 0.67)])
@torch.no_grad()
def test_slices_of_the_shared_weights_are_the_extracted_model(family, shape):
    model, batch = tiny_model(family), tiny_batch()
    extracted = extract(model, shape)
    torch.testing.assert_close(
        logits(Subnetwork(model, shape)(**batch)), logits(extracted(**batch)), rtol=0, atol=1e-12
    )
    assert model_flops(view_of(extracted), 8.0) == shape.flops(view_of(model), 8.0)
    assert extracted.config.num_hidden_layers == round(3 * shape.depth)


@torch.no_grad()
def test_a_narrow_network_is_the_masked_one():
    model, batch = tiny_model(), tiny_batch()
    view = view_of(model)
    masks = [(torch.arange(s.units) < s.units // 2).double() for s in view.blocks]
    with masked(view, masks):
        expected = logits(model(**batch))
    torch.testing.assert_close(logits(Subnetwork(model, Shape(0.5, 1.0))(**batch)), expected, rtol=0, atol=1e-12)


def test_gradients_flow_to_the_prefix_alone():
    model, batch = tiny_model(), tiny_batch()
    Subnetwork(model, Shape(0.5, 0.67))(**batch).logits.square().sum().backward()
    layers = model.bert.encoder.layer
    gradient = layers[0].intermediate.dense.weight.grad
    assert (gradient[:24] != 0).any() and (gradient[24:] == 0).all()
    assert layers[2].intermediate.dense.weight.grad is None, "layers 0 and 1 of 3 stay"


def test_dropped_layers_are_spread_as_the_authors_have_them():
    assert Shape(1.0, 0.5).layers(12) == [0, 2, 4, 6, 8, 10]
    assert Shape(1.0, 0.75).layers(12) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert Shape(1.0, 1.0).layers(12) == list(range(12))


@pytest.mark.parametrize(
    "reduction, expected", [(0.75, Shape(0.25, 1.0)), (0.5, Shape(0.5, 1.0)), (0.6, Shape(0.25, 1.0))]
)
def test_the_largest_network_within_the_budget(reduction, expected):
    method, model = DynaBERT(depths=(1.0,)), tiny_model()
    assert method.largest(model, FlopsBudget(reduction, 8.0)) == expected
    assert method.reach(model, 8.0) == pytest.approx(0.75)


def test_an_emptied_block_stays_empty():
    model = tiny_model()
    keep_units(view_of(model).blocks[1], torch.tensor([], dtype=torch.long))
    rewired, order = rewire(model, objective_of(model), labelled())
    assert order[1] == [] and extract(rewired, Shape(0.5, 1.0)).bert.encoder.layer[0].output.dense.bias is not None
