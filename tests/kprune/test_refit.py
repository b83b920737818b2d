"""The refit of a block's own weights, on tiny models."""

import pytest
import torch
from tiny import FAMILIES, tiny_calibration, tiny_model

from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.divergence import held_out_divergence
from kprune.errors import UserError
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.methods.kprune_plus.refit import differentiate, error, refit
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of
from kprune.streams import calibration_states


def prune(model, pruner, calibration, reduction=0.6):
    return pruner.prune(Job(model, objective_of(model), PruningData(calibration), FlopsBudget(reduction, 8.0)))


def halved(family: str, index: int):
    """A block with half of its units, its view, and states at its input whose teacher has all of the units."""
    view = view_of(frozen_copy(tiny_model(family)))
    states = calibration_states(view, tiny_calibration(64).batches())
    block = view.blocks[index]
    for state in states:
        for below in view.blocks[:index]:
            state.student = below.run(state.student, state.context)
        state.teacher = state.student + block.update(state.student, state.context)
    keep_units(block, torch.arange(block.units // 2))
    return view, block, states


def total(block, states, weights, root):
    """By its formula, over the real tokens alone."""
    with torch.no_grad():
        moved = [s.teacher - s.student - block.update(s.student, s.context) for s in states]
        felt = [(m @ root.T).square().sum(dim=-1) for m in moved]
        return sum((w * f)[s.real].sum().item() for w, f, s in zip(weights, felt, states, strict=True))


@pytest.mark.parametrize("index", [0, 1])
def test_the_error_and_its_gradient(index):
    """Against the formula, and against autograd through it."""
    _, block, states = halved("bert", index)
    weights = [torch.rand_like(s.student[..., 0]) * s.real for s in states]
    root = torch.randn(block.hidden_size, block.hidden_size, dtype=torch.float64)
    metric = root.T @ root
    assert sum(error(block, *b, metric).item() for b in zip(states, weights, strict=True)) == pytest.approx(
        total(block, states, weights, root)
    )
    parameters = [p.requires_grad_(True) for linear in (*block.inputs, block.output) for p in linear.parameters()]
    expected = torch.autograd.grad(3 * error(block, states[0], weights[0], metric), parameters, allow_unused=True)
    differentiate(block, states[0], weights[0], metric, 3.0)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("index", [0, 1])
def test_it_lowers_its_own_error_and_changes_nothing_else(family, index):
    view, block, states = halved(family, index)
    own = {id(p) for linear in (*block.inputs, block.output) for p in linear.parameters()}
    others = [(p, p.clone()) for p in view.model.parameters() if id(p) not in own]
    weights = [torch.rand_like(s.student[..., 0]) for s in states]
    d = block.hidden_size
    root = torch.diag(torch.linspace(0.1, 2.0, d, dtype=torch.float64))
    before = total(block, states, weights, root)
    refit(block, states, weights, root, epochs=40, lr=3e-3, solve=lambda: 0.5)
    assert total(block, states, weights, root) < 0.8 * before
    assert all(torch.equal(p, was) for p, was in others)
    assert not any(p.requires_grad or p.grad is not None for p in view.model.parameters())


def test_the_metric_says_what_is_fitted_first():
    """One feature left for many outputs: in a metric that feels one output alone, it goes to that one."""
    errors = {}
    for output in (0, 5):
        _, block, states = halved("bert", 1)
        keep_units(block, torch.arange(1))
        root = torch.full((block.hidden_size,), 1e-3, dtype=torch.float64)
        root[output] = 1.0
        weights = [torch.ones_like(s.student[..., 0]) for s in states]
        refit(block, states, weights, root.diag(), epochs=100, lr=1e-2, solve=lambda: 0.5)
        for felt in (0, 5):
            alone = torch.zeros_like(root)
            alone[felt] = 1.0
            errors[output, felt] = total(block, states, weights, alone.diag())
    assert errors[0, 0] < errors[5, 0] and errors[5, 5] < errors[0, 5]


def test_it_brings_the_model_closer_on_examples_that_were_not_fitted():
    totals = {0: 0.0, 10: 0.0}
    fresh = tiny_calibration(100, 32, seed=9)
    for seed in range(3):
        model, data = tiny_model(seed=seed), PruningData(tiny_calibration(800, 32))
        for epochs in totals:
            pruner = KPrunePlus(refit_epochs=epochs)
            pruned = pruner.prune(Job(model, objective_of(model), data, FlopsBudget(0.6, 8.0))).model
            totals[epochs] += held_out_divergence(pruned, model, objective_of(model), fresh, 2.0)
    assert totals[10] < 0.95 * totals[0]


def test_steps_that_are_too_long_are_not_taken():
    view, block, states = halved("bert", 1)
    weights, root = [torch.ones_like(s.student[..., 0]) for s in states], torch.eye(block.hidden_size).double()
    was = [p.clone() for p in view.model.parameters()]
    assert refit(block, states, weights, root, epochs=1, lr=10.0, solve=lambda: 0.5) is None
    assert all(torch.equal(p, before) for p, before in zip(view.model.parameters(), was, strict=True))


def test_a_refit_that_its_re_solve_spoils_is_undone():
    view, block, states = halved("bert", 1)
    weights, root = [torch.ones_like(s.student[..., 0]) for s in states], torch.eye(block.hidden_size).double()
    was = [p.clone() for p in view.model.parameters()]

    def spoil():
        block.output.weight.zero_()
        block.output.bias.fill_(9.0)
        return 0.5

    assert refit(block, states, weights, root, epochs=5, lr=3e-3, solve=spoil) is None
    assert all(torch.equal(p, before) for p, before in zip(view.model.parameters(), was, strict=True))


def test_two_runs_are_the_same():
    model, calibration, pruner = tiny_model(), tiny_calibration(24), KPrunePlus(refit_epochs=2)
    one, other = (prune(model, pruner, calibration) for _ in range(2))
    assert one.plan.kept == other.plan.kept
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert one.seconds_by_stage["refit"] > 0 and one.details["ridge"]


def test_steps_that_lead_nowhere_are_one_line():
    with pytest.raises(UserError, match="lower refit_lr="):
        prune(tiny_model(), KPrunePlus(refit_epochs=3, refit_lr=1e200), tiny_calibration(24))


@pytest.mark.parametrize("settings", [dict(refit_epochs=-1), dict(refit_epochs=0.5), dict(refit_lr=0.0)])
def test_settings_that_mean_nothing(settings):
    with pytest.raises(UserError, match="=.*: give"):
        KPrunePlus(**settings)
