import copy

import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_model

from baselines.retrained.cofi import CoFi, L0Masks, expected_reduction, extract, layer_loss
from baselines.retrained.distillation import Outputs
from kprune.budgets import FlopsBudget
from kprune.contract import Job
from kprune.models import view_of
from kprune.models.flops import flops_reduction
from kprune.models.masks import masked
from kprune.objectives import objective_of
from kprune.training import Recipe


def masks_of(view):
    return L0Masks([block.units for block in view.blocks], [block.kind for block in view.blocks])


def hard(view, share=0.5):
    """Hard masks, and the L0 masks whose logits are at the corresponding bounds."""
    generator = torch.Generator().manual_seed(0)
    masks = [(torch.rand(s.units, generator=generator) < share).double() for s in view.blocks]
    masks[2].zero_()
    masks[2][0] = 1  # its block's mask takes it away
    l0 = masks_of(view).double()
    with torch.no_grad():
        for logits, mask in zip(l0.units, masks, strict=True):
            logits.copy_(100 * mask - 50)
        l0.blocks.fill_(50)
        l0.blocks[2] = -50
    masks[2].zero_()
    return masks, l0


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_masks_at_their_bounds_are_hard_masks(family):
    model, batch = tiny_model(family), tiny_batch()
    view = view_of(model)
    masks, l0 = hard(view)
    for drawn in (l0.deterministic(), l0.sample()):
        assert all(torch.equal(a, b) for a, b in zip(drawn, masks, strict=True))
    with masked(view, masks):
        expected = model(**batch).logits
    pruned = copy.deepcopy(model)
    budget = FlopsBudget(expected_reduction(l0, view, FlopsBudget(0.5, 8.0)).item(), 8.0)
    kept = extract(pruned, l0, budget)
    assert kept == [mask.nonzero()[:, 0].tolist() for mask in masks]
    assert flops_reduction(view, view_of(pruned), 8.0) == pytest.approx(budget.flops_reduction)
    torch.testing.assert_close(pruned(**batch).logits, expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_soft_masks_are_factors_of_the_extracted_weights():
    """Where the budget takes away what the masks have closed, and no more."""
    model, batch = tiny_model(), tiny_batch()
    view = view_of(model)
    _, l0 = hard(view)
    for logits in l0.units:
        logits[logits > 0] = torch.rand(int((logits > 0).sum()), dtype=torch.float64)
    with masked(view, l0.deterministic()):
        expected = model(**batch).logits
    assert any(((m > 0) & (m < 1)).any() for m in l0.deterministic())
    pruned, open_units = copy.deepcopy(model), [int((m > 0).sum()) for m in l0.deterministic()]
    left = sum(n * s.unit_flops(8.0) for n, s in zip(open_units, view.blocks, strict=True))
    total = sum(s.units * s.unit_flops(8.0) for s in view.blocks)
    extract(pruned, l0, FlopsBudget(1 - left / total, 8.0))
    torch.testing.assert_close(pruned(**batch).logits, expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_units_that_fill_the_budget_are_worth_their_probability():
    """Closed masks whose units are kept all the same, some of them in a block that is closed as a whole."""
    torch.manual_seed(0)
    model = tiny_model()
    view = view_of(model)
    l0 = masks_of(view).double()
    for logits in l0.units:
        logits.uniform_(-4, 4)
    l0.blocks.copy_(torch.tensor([4.0, 4, -3, 4, 4, -3]))
    pruned = copy.deepcopy(model)
    kept = extract(pruned, l0, FlopsBudget(0.1, 8.0))
    closed = [sum(m[units] == 0) for m, units in zip(l0.deterministic(), kept, strict=True)]
    assert sum(closed) > 20 and closed[5] == len(kept[5]) > 0 and closed[1] < len(kept[1])
    columns = zip(view.blocks, view_of(pruned).blocks, l0.deterministic(), l0.log_open(), kept, strict=True)
    for dense, block, mask, log_open, units in columns:
        factors = torch.tensor([mask[u] if mask[u] > 0 else log_open[u].exp() for u in units], dtype=torch.float64)
        blocks = dense.output.weight.unflatten(1, (-1, dense.width))[:, units] * factors[:, None]
        torch.testing.assert_close(block.output.weight, blocks.flatten(1))
        assert (block.output.weight != 0).any(dim=0).all()


def test_the_probability_of_an_open_mask_is_the_share_of_draws():
    torch.manual_seed(0)
    l0 = L0Masks([4000], ["heads"])
    with torch.no_grad():
        l0.units[0].fill_(-0.4)
        l0.blocks.fill_(50)
    drawn = (l0.sample()[0] > 0).float().mean()
    assert drawn.item() == pytest.approx(l0.log_open()[0].exp().mean().item(), abs=0.03)


def test_layers_are_matched_to_the_closest_that_is_there():
    torch.manual_seed(0)
    hidden = [torch.randn(2, 5, 4) for _ in range(5)]
    real = torch.ones(2, 5, dtype=torch.bool)
    teacher = Outputs(None, tuple(hidden), real)
    turned = Outputs(None, (hidden[0], *hidden[:0:-1]), real)
    same = torch.nn.Identity()
    assert layer_loss(same, turned, teacher, [True] * 4) == 0
    one_gone = layer_loss(same, turned, teacher, [False, True, True, True])
    nearest = min((hidden[4] - hidden[i]).square().mean() for i in (1, 2, 3))
    torch.testing.assert_close(one_gone, nearest)


def test_the_constraint_pulls_the_expected_flops_to_the_target(data_for):
    model = tiny_model(dtype=torch.float32)
    recipe = Recipe(epochs=16, lr=1e-3, batch_size=8)
    method = CoFi(recipe=recipe, unmasked_epochs=1, warmup_epochs=3, finetuning_epochs=0, mask_lr=0.1)
    outcome = method.prune(Job(model, objective_of(model), data_for(), FlopsBudget(0.6, 8.0)))
    assert outcome.details["expected_flops_reduction"] == pytest.approx(0.6, abs=0.1)
    assert "fine_tuning" not in outcome.details["training"]


def test_heads_start_open_and_neurons_half_open():
    l0 = L0Masks([12, 400], ["heads", "neurons"])
    heads, neurons = (p.exp().mean().item() for p in l0.log_open())
    assert heads > 0.99 and neurons == pytest.approx(1 / (1 + (0.1 / 1.1) ** (2 / 3)), abs=0.01)


def test_masks_that_have_not_come_to_the_target_are_told(data_for, capsys):
    model = tiny_model(dtype=torch.float32)
    method = CoFi(recipe=Recipe(epochs=1, lr=1e-3), unmasked_epochs=0, warmup_epochs=0, finetuning_epochs=0)
    outcome = method.prune(Job(model, objective_of(model), data_for(), FlopsBudget(0.8, 8.0)))
    assert outcome.details["expected_flops_reduction"] < 0.5
    assert "in place of 80.0%" in capsys.readouterr().out
