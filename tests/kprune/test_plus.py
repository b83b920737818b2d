"""K-prune+ end to end on tiny models."""

import copy

import pytest
import torch
from tiny import FAMILY_AND_HEAD, HEADS, assert_less_than_a_head_over, tiny_batch, tiny_calibration, tiny_model

from kprune.budgets import FlopsBudget
from kprune.clock import Clock
from kprune.contract import Job, PruningData
from kprune.data import CalibrationSet
from kprune.divergence import held_out_divergence
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.methods.kprune_plus import algorithm as plus
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.methods.kprune_plus.input_map import fold_map
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.flops import flops_reduction
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of
from kprune.solve.least_squares import LeastSquares
from kprune.streams import calibration_states


def prune(model, reduction, pruner=None, calibration=None, data=None):
    data = data or PruningData(calibration or tiny_calibration(24))
    return (pruner or KPrunePlus()).prune(Job(model, objective_of(model), data, FlopsBudget(reduction, 8.0)))


@pytest.mark.parametrize("family, head", FAMILY_AND_HEAD)
def test_the_budget_is_met_by_less_than_a_head(family, head):
    model = tiny_model(family, head, dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    data = PruningData(tiny_calibration(24))
    for reduction in (0.3, 0.6, 0.9, 0.97):
        outcome = prune(model, reduction, data=data)
        assert_less_than_a_head_over(outcome, model, reduction)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_reductions_share_the_first_pass_and_its_seconds():
    model, data = tiny_model(), PruningData(tiny_calibration(24))
    fresh, shared = prune(model, 0.6), [prune(model, reduction, data=data) for reduction in (0.3, 0.6)]
    assert shared[1].plan.kept == fresh.plan.kept
    assert all(torch.equal(a, b) for a, b in zip(fresh.model.parameters(), shared[1].model.parameters(), strict=True))
    for stage in ("fisher", "curves"):
        assert shared[0].seconds_by_stage[stage] == shared[1].seconds_by_stage[stage] > 0


def test_no_gram_matrix_is_shared():
    """What reductions share grows with d² and tokens, never with the square of the neurons."""
    data = PruningData(tiny_calibration(24))
    prune(tiny_model(), 0.6, data=data)
    ((fishers, curves), _) = data.shared.popitem()[1]
    held = [value for each in fishers for value in vars(each).values() if isinstance(value, torch.Tensor)]
    assert {tuple(value.shape) for value in (*held, *curves)} == {(32, 32), (5,), (49,)}


@pytest.mark.parametrize("head", HEADS)
def test_neither_batches_nor_the_order_drawn_matter(head, monkeypatch):
    """Not to a bit, although the refit's steps depend on what is in one."""
    monkeypatch.setattr(plus, "TOKENS", 64)
    model, calibration = tiny_model(head=head), tiny_calibration(24)
    assert len(calibration.steps(64)) > 3
    others = [prune(model, 0.6, calibration=c) for c in (calibration, CalibrationSet(calibration.examples[::-1], 7, 1))]
    assert others[0].plan.kept == others[1].plan.kept
    assert all(torch.equal(a, b) for a, b in zip(*(other.model.parameters() for other in others), strict=True))


@pytest.mark.parametrize("head", HEADS)
def test_padding_does_not_matter(head, monkeypatch):
    model, calibration, found = tiny_model(head=head), tiny_calibration(24), []
    for tokens in (1, 64, 1024):
        monkeypatch.setattr(plus, "TOKENS", tokens)
        found.append(prune(model, 0.6, KPrunePlus(refit_epochs=0), calibration))
    alone, *padded = found
    for other in padded:
        assert other.plan.kept == alone.plan.kept
        for a, b in zip(other.model.parameters(), alone.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pruner", [KPrunePlus(), KPrunePlus(refit_epochs=0)], ids=["refit", "fast"])
def test_nothing_is_made_up_for_below_the_first_loss(pruner):
    """The bottom blocks that keep every unit keep their weights, to the bit."""
    model = tiny_model()
    pruned = prune(model, 1e-9, pruner)
    whole = [
        len(units) == block.units for units, block in zip(pruned.plan.kept.values(), view_of(model).blocks, strict=True)
    ]
    first = whole.index(False)
    assert 0 < first < len(whole) and pruned.details["ridge"][:first] == [None] * first
    for ours, theirs in list(zip(view_of(pruned.model).blocks, view_of(model).blocks, strict=True))[:first]:
        for a, b in zip((*ours.inputs, ours.output), (*theirs.inputs, theirs.output), strict=True):
            assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


def test_closer_to_the_teacher_than_kprune():
    """On examples that were not fitted, over several models."""
    closer = 0
    for seed in range(5):
        model, calibration, fresh = tiny_model(seed=seed), tiny_calibration(200, 32), tiny_calibration(100, 32, seed=9)
        divergences = [
            held_out_divergence(prune(model, 0.6, pruner, calibration).model, model, objective_of(model), fresh, 2.0)
            for pruner in (KPrunePlus(), KPrune())
        ]
        closer += divergences[0] < divergences[1]
    assert closer >= 4


def test_curves_fall_to_zero_with_all_units():
    model, calibration = tiny_model(), tiny_calibration(300, 32)
    view = view_of(frozen_copy(model))
    states = calibration_states(view, calibration.batches())
    pruner = KPrunePlus(ridge=1e-8, metric_ridge=1e-8).resolved(view)
    _, curves = pruner.first_pass(view, states, objective_of(model), Clock())
    for curve, block in zip(curves, view.blocks, strict=True):
        assert len(curve) == block.units + 1
        assert curve[-1] == 0 and (curve.diff() <= 0).all() and curve[0] > 0


def test_input_map_undoes_an_affine_change_of_the_state():
    """Where the student's state is an affine image of the teacher's, its inputs see the teacher's state again."""
    model = frozen_copy(tiny_model())
    view = view_of(model)
    block, original = view.blocks[1], view_of(frozen_copy(model)).blocks[1]
    states = calibration_states(view, tiny_calibration(60, 16).batches())
    generator = torch.Generator().manual_seed(0)
    mixing = torch.eye(32) + 0.1 * torch.randn(32, 32, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = [block.features(s.teacher, s.context) for s in states]
        for state in states:
            state.student = state.teacher @ mixing + 0.3
        before = [block.features(s.student, s.context) for s in states]
        weights = [torch.ones_like(s.teacher[..., 0]) for s in states]
        fold_map(block, original, states, weights, ridge=1e-12)
        after = [block.features(s.student, s.context) for s in states]
    for state, a, b, e in zip(states, after, before, expected, strict=True):
        real = state.real
        assert (b[real] - e[real]).abs().max() > 0.1
        torch.testing.assert_close(a[real], e[real], rtol=1e-5, atol=1e-6)


def test_tuning_with_a_constant_is_the_weighted_least_squares_of_all_tokens():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    features, targets, weights = draw(80, 6) + 1, draw(80, 3), torch.rand(80, generator=generator).double()
    squares = LeastSquares.empty(6, 3, features.device)
    for part in range(4):
        rows = slice(20 * part, 20 * part + 20)
        squares.add(features[rows], targets[rows], weights[rows])
    weight, _ = squares.centred().solve(0.0)
    root = weights.sqrt()[:, None]
    extended = torch.cat([features, torch.ones(80, 1)], dim=1)
    expected = torch.linalg.lstsq(extended * root, targets * root).solution
    torch.testing.assert_close(weight, expected[:-1].T)
    torch.testing.assert_close(squares.constant(weight), expected[-1])


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_pruned_model_is_pruned_again(family):
    once = prune(tiny_model(family), 0.9)
    twice = prune(once.model, 0.5)
    assert flops_reduction(view_of(once.model), view_of(twice.model), 8.0) >= 0.5
    assert torch.isfinite(twice.model(**tiny_batch())[0]).all()


@pytest.mark.parametrize("head", HEADS)
def test_without_a_ridge_on_the_metric(head):
    """A covariance has no more rank than the roots give it."""
    outcome = prune(tiny_model(head=head), 0.5, KPrunePlus(metric_ridge=0.0))
    assert torch.isfinite(outcome.model(**tiny_batch())[0]).all()


def test_an_empty_block_below_is_no_obstacle():
    model = tiny_model()
    keep_units(view_of(model).blocks[2], torch.tensor([], dtype=torch.long))
    assert prune(model, 0.5).plan.kept["1.attention"] == []


def test_a_block_that_nothing_is_felt_of_may_go_for_nothing():
    """The classifier ignores everything."""
    model = tiny_model()
    model.classifier.weight.data.zero_()
    view = view_of(frozen_copy(model))
    states = calibration_states(view, tiny_calibration(24).batches())
    _, curves = KPrunePlus().resolved(view).first_pass(view, states, objective_of(model), Clock())
    for block, errors in zip(view.blocks, curves, strict=True):
        assert torch.equal(errors, torch.zeros(block.units + 1).double())
    outcome = prune(model, 0.5)
    assert flops_reduction(view_of(model), view_of(outcome.model), 8.0) >= 0.5
    torch.testing.assert_close(outcome.model(**tiny_batch()).logits, model(**tiny_batch()).logits)


def test_a_block_that_does_nothing_may_go_for_nothing():
    """Weights that no feature ever reaches."""
    model = tiny_model()
    ffn = view_of(model).blocks[3]
    ffn.inputs[0].weight.data.zero_(), ffn.inputs[0].bias.data.zero_()
    outcome = prune(model, 0.3)
    assert outcome.kept_neurons[1] == 0
    assert min(outcome.kept_neurons[::2]) > 0


@pytest.mark.parametrize(
    "settings", [dict(ridge=-1.0), dict(metric_ridge=-1.0), dict(floor=-1.0), dict(input_ridge="x")]
)
def test_settings_that_mean_nothing(settings):
    with pytest.raises(UserError, match="=.*: (give|the default is)"):
        KPrunePlus(**settings)


def test_steps_hold_every_example_once_within_their_tokens():
    calibration = tiny_calibration(24)
    steps = calibration.steps(30)
    assert all(batch["input_ids"].numel() <= 30 for batch in steps)
    found = [
        row[mask.bool()].tolist() for b in steps for row, mask in zip(b["input_ids"], b["attention_mask"], strict=True)
    ]
    assert sorted(found) == sorted(example["input_ids"] for example in calibration.examples)
    assert [len(batch["input_ids"]) for batch in calibration.steps(1)] == [1] * 24, (
        "an example too long is a step of its own"
    )
