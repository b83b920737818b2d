import pytest
import torch
from tiny import FAMILIES, HEADS, tiny_batch, tiny_calibration, tiny_model

from baselines.retrained.ebert import EBERT, GatedModel, set_threshold
from kprune.budgets import FlopsBudget
from kprune.contract import Job
from kprune.errors import UserError
from kprune.models import view_of
from kprune.objectives import objective_of
from kprune.training import Recipe


def logits(output):
    return torch.cat([value.flatten() for value in output.to_tuple()])


def spread(gated, seed=0):
    """Predictors whose gates differ between inputs."""
    torch.manual_seed(seed)
    for predictor in gated.predictors:
        torch.nn.init.normal_(predictor.up.weight)
        torch.nn.init.zeros_(predictor.up.bias)
    return gated.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_open_gates_leave_the_function_as_it_was(family, head):
    model, batch = tiny_model(family, head), tiny_batch()
    expected, gated = logits(model(**batch)), spread(GatedModel(model, 8.0))
    gated.threshold.fill_(-1e9)
    torch.testing.assert_close(logits(gated(**batch)), expected, rtol=0, atol=1e-12)
    assert gated.share(gated.open_units()) == pytest.approx(1.0)
    gated.threshold.fill_(0.0)
    assert (logits(gated(**batch)) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_an_input_is_gated_by_itself_alone():
    """Neither by the batch it stands in nor by its padding; and different inputs are gated differently."""
    gated, batch = spread(GatedModel(tiny_model(), 8.0)), tiny_batch()
    together = gated(**batch).logits
    gates = torch.cat(gated.gates, dim=1)
    assert (gates != gates[0]).any()
    length = int(batch["attention_mask"][0].sum())
    alone = gated(**{key: value[:1, :length] for key, value in batch.items()})
    torch.testing.assert_close(alone.logits, together[:1], rtol=0, atol=1e-9)


@torch.no_grad()
def test_units_are_counted_as_they_open():
    gated, calibration = spread(GatedModel(tiny_model(), 8.0)), tiny_calibration(10, 4)
    counted = gated.count_units(calibration.batches())
    by_hand = []
    for example in calibration.examples:
        gated(input_ids=torch.tensor([example["input_ids"]]), attention_mask=torch.ones(1, len(example["input_ids"])))
        by_hand.append([gates.sum().item() for gates in gated.gates])
    assert counted == pytest.approx(torch.tensor(by_hand).mean(dim=0).tolist())
    flops = [s.unit_flops(8.0) for s in view_of(gated.model).blocks]
    units = [s.units for s in view_of(gated.model).blocks]
    share = sum(n * f for n, f in zip(counted, flops, strict=True)) / sum(
        n * f for n, f in zip(units, flops, strict=True)
    )
    assert gated.share(counted) == pytest.approx(share)


def test_the_threshold_meets_the_target():
    gated, batches = spread(GatedModel(tiny_model(), 8.0)), tiny_calibration(24, 8).batches()
    set_threshold(gated, batches, 0.3)
    share = float(gated.share(gated.count_units(batches)))
    assert 0.27 < share <= 0.3


def test_gates_that_no_threshold_closes_are_one_line():
    gated, batches = spread(GatedModel(tiny_model(), 8.0)), tiny_calibration(24, 8).batches()
    for predictor in gated.predictors:
        predictor.up.bias.data.fill_(1e4)
    with pytest.raises(UserError, match="at any threshold up to 100: lower predictor_lr"):
        set_threshold(gated, batches, 0.3)


def test_gates_pass_gradients_straight_through():
    gated, batch = GatedModel(tiny_model(), 8.0).train(), tiny_batch()
    gated(**batch)
    assert all(set(gates.unique().tolist()) <= {0.0, 1.0} for gates in gated.gates)
    gated.share(gated.open_units()).backward()
    assert all(predictor.up.bias.grad.abs().sum() > 0 for predictor in gated.predictors)


def test_the_penalty_pulls_the_flops_to_the_target(data_for):
    model = tiny_model(dtype=torch.float32)
    method = EBERT(recipe=Recipe(epochs=20, lr=1e-3, batch_size=8), penalty=50.0)
    outcome = method.prune(Job(model, objective_of(model), data_for(), FlopsBudget(0.6, 8.0)))
    assert outcome.details["flops_reduction_at_threshold_0"] == pytest.approx(0.6, abs=0.15)
    losses = [loss for _, loss in outcome.details["losses"]["training"]]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
