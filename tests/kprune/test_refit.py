"""The refit of a block's own weights, on tiny models."""

import pytest
import torch
from choices import choices_batch, tiny_chooser
from language import tiny_llama
from tiny import FAMILIES, tiny_calibration, tiny_model

from kprune.batches import calibration_set
from kprune.budgets import FlopsBudget
from kprune.contract import Job, PruningData
from kprune.divergence import held_out_divergence
from kprune.errors import UserError
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.methods.kprune_plus.fisher import OutputFisher
from kprune.methods.kprune_plus.refit import descend, explained, own_parameters, residual, row_parts, set_gradients
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of
from kprune.streams import calibration_states


def prune(model, pruner, calibration, reduction=0.6):
    return pruner.prune(Job(model, objective_of(model), PruningData(calibration), FlopsBudget(reduction, 8.0)))


def halved(model, index: int, calibration=None):
    """A block with half of its units, its view, and states at its input whose teacher has all of the units."""
    view = view_of(frozen_copy(model))
    states = calibration_states(view, (calibration or tiny_calibration(64)).batches())
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
def test_the_gradient_is_that_of_the_error(index):
    """Against autograd through its formula."""
    _, block, states = halved(tiny_model(), index)
    weights = torch.rand_like(states[0].student[..., 0]) * states[0].real
    root = torch.randn(block.hidden_size, block.hidden_size, dtype=torch.float64)
    parameters = [p.requires_grad_(True) for linear in (*block.inputs, block.output) for p in linear.parameters()]
    error = 3 * (weights * (residual(block, states[0]) @ root.T).square().sum(dim=-1)).sum()
    expected = torch.autograd.grad(error, parameters, allow_unused=True)
    set_gradients(block, states[0], weights, root.T @ root, 3.0)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("index", [0, 1])
def test_what_is_explained_is_the_error_that_is_gone(biased, index):
    """From sums over tokens alone: against the error of all tokens."""
    _, block, states = halved(tiny_model(), index)
    if not biased:
        block.output.bias = None
    weights = [torch.rand_like(s.student[..., 0]) for s in states]
    root = torch.randn(block.hidden_size, block.hidden_size, dtype=torch.float64)
    whole = total(block, states, weights, root)
    problem = KPrunePlus().problem(block, states, weights)
    part = explained(block, problem, root)
    for parameter in block.output.parameters():
        torch.nn.init.zeros_(parameter)
    nothing = total(block, states, weights, root)
    assert explained(block, problem, root) == 0
    assert part == pytest.approx(nothing - whole, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("index", [0, 1])
def test_it_lowers_its_own_error_and_changes_nothing_else(family, index):
    view, block, states = halved(tiny_model(family), index)
    own = {id(p) for linear in (*block.inputs, block.output) for p in linear.parameters()}
    others = [(p, p.clone()) for p in view.model.parameters() if id(p) not in own]
    weights = [torch.rand_like(s.student[..., 0]) for s in states]
    d = block.hidden_size
    root = torch.diag(torch.linspace(0.1, 2.0, d, dtype=torch.float64))
    before = total(block, states, weights, root)
    descend(block, states, weights, root, epochs=40, lr=3e-3, tokens=1024)
    assert total(block, states, weights, root) < 0.8 * before
    assert all(torch.equal(p, was) for p, was in others)
    assert not any(p.requires_grad or p.grad is not None for p in view.model.parameters())


@pytest.mark.parametrize(
    ("tokens", "sizes"), [(10**6, [48]), (144, [48]), (48, [16] * 3), (50, [16] * 3), (22, [7] * 7), (1, [1] * 48)]
)
def test_a_state_is_dealt_out_in_shares_of_one_size(tokens, sizes):
    """Every row counts once, also where the last share has rows of the one before it."""
    (state,) = calibration_states(view_of(tiny_model()), tiny_calibration(48, 48, longest=4).batches())
    assert state.real.numel() == 48 * 3
    found = row_parts(state, tokens)
    assert [len(rows) for rows, _ in found] == sizes
    assert sorted(torch.cat([rows[counted] for rows, counted in found]).tolist()) == list(range(48))


def test_choices_of_an_example_are_in_one_share():
    model = tiny_chooser()
    calibration = calibration_set(model, [choices_batch(examples=7)], objective_of(model), labels=False)
    (state,) = calibration_states(view_of(model), calibration.batches())
    found = row_parts(state, state.real.numel() // 4)
    own = torch.arange(state.examples).repeat_interleave(state.batch["choices"])
    for rows, counted in found:
        for example in own[rows].unique():
            assert set((own == example).nonzero()[:, 0].tolist()) <= set(rows.tolist())
            assert len(counted[own[rows] == example].unique()) == 1
    assert sorted(torch.cat([rows[counted] for rows, counted in found]).tolist()) == list(range(len(own)))


def test_steps_of_examples_with_different_numbers_of_choices():
    """Each in a step of its own, the last of fewer rows: its choices are two, theirs four."""
    model, found = tiny_chooser(), []
    batch = choices_batch(examples=3)
    for batches in ([batch], [{name: value[i : i + 1] for name, value in batch.items()} for i in range(3)]):
        calibration = calibration_set(model, batches, objective_of(model), labels=False)
        _, block, states = halved(model, 1, calibration)
        assert [state.examples for state in states] == ([3] if len(batches) == 1 else [1, 1, 1])
        weights = [state.real.double() for state in states]
        descend(block, states, weights, torch.eye(block.hidden_size).double(), epochs=3, lr=3e-3, tokens=1)
        found.append([p.clone() for p in own_parameters(block)])
    for together, apart in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("index", [0, 1])
def test_steps_of_a_large_state_are_those_of_small_ones(family, index):
    """A GPU has several steps' rows in one state: the weights are the same to rounding."""
    found = []
    every = torch.rand(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for batch_size in (64, 16):
        model = tiny_model() if family == "bert" else tiny_llama(vocab_size=99).double()
        _, block, states = halved(model, index, tiny_calibration(64, batch_size, longest=4))
        root = torch.eye(block.hidden_size, dtype=torch.float64)
        descend(block, states, every.split(batch_size), root, epochs=3, lr=3e-3, tokens=48)
        found.append([p.clone() for p in own_parameters(block)])
    for large, small in zip(*found, strict=True):
        torch.testing.assert_close(large, small, rtol=1e-9, atol=1e-12)


def test_the_metric_says_what_is_fitted_first():
    """One feature left for many outputs: in a metric that feels one output alone, it goes to that one."""
    errors = {}
    for output in (0, 5):
        _, block, states = halved(tiny_model(), 1)
        keep_units(block, torch.arange(1))
        root = torch.full((block.hidden_size,), 1e-3, dtype=torch.float64)
        root[output] = 1.0
        weights = [torch.ones_like(s.student[..., 0]) for s in states]
        descend(block, states, weights, root.diag(), epochs=100, lr=1e-2, tokens=1024)
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


def refit(pruner, block, states):
    """As the walk does it, with a metric that feels every output alike."""
    weights = [torch.ones_like(s.student[..., 0]) for s in states]
    problem = pruner.problem(block, states, weights)
    pruner.solve(block, problem, None)
    fisher = OutputFisher(torch.eye(block.hidden_size).double(), [], [])
    before = [p.clone() for p in block.module.parameters()]
    return pruner.refit(block, states, weights, problem, None, fisher), before


def test_steps_that_are_too_long_are_not_taken():
    _, block, states = halved(tiny_model(), 1)
    ridge, before = refit(KPrunePlus(ridge=1e-2, refit_epochs=1, refit_lr=10.0), block, states)
    assert ridge is None
    assert all(torch.equal(p, was) for p, was in zip(block.module.parameters(), before, strict=True))


def test_a_refit_that_its_re_solve_spoils_is_undone():
    class Spoiler(KPrunePlus):
        calls = 0

        def solve(self, block, problem, prior):
            ridge = super().solve(block, problem, prior)
            Spoiler.calls += 1
            if Spoiler.calls == 2:
                block.output.weight.zero_()
                block.output.bias.fill_(9.0)
            return ridge

    _, block, states = halved(tiny_model(), 1)
    ridge, before = refit(Spoiler(ridge=1e-2, refit_epochs=5, refit_lr=3e-3), block, states)
    assert ridge is None and Spoiler.calls == 2
    assert all(torch.equal(p, was) for p, was in zip(block.module.parameters(), before, strict=True))


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
    with pytest.raises(UserError, match="=.*: (give|the default is)"):
        KPrunePlus(**settings)
