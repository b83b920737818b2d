"""Removal with compensation against solving again from scratch."""

import itertools

import pytest
import torch

from kprune.budgets import UnitCost
from kprune.errors import UserError
from kprune.methods.kprune_plus.fisher import metric_root
from kprune.models.surgery import unit_columns
from kprune.solve import removal
from kprune.solve.allocation import allocate, monotone
from kprune.solve.least_squares import LeastSquares
from kprune.solve.removal import Factors, remove_greedily, unit_errors


def problem(units=8, width=1, hidden=5, tokens=200, seed=0, mixing=1.0):
    """A least squares with correlated features, and a metric on its output."""
    generator = torch.Generator().manual_seed(seed)
    n = units * width
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    features = draw(tokens, n) @ (mixing * draw(n, n) + torch.eye(n))
    squares = LeastSquares.empty(n, hidden, features.device)
    squares.add(features, features @ draw(n, hidden) + draw(tokens, hidden))
    metric = draw(hidden, hidden)
    return squares, metric_root(metric @ metric.T, 0.1)


def error(squares, columns, root):
    """Σ ‖R (r − W f)‖² at the optimum over some columns, solved from scratch, but for the constant Σ ‖R r‖²."""
    part = squares.of(columns)
    weight = torch.linalg.solve(part.gram, part.cross).T if len(columns) else part.cross.T
    inner = weight @ part.gram @ weight.T - weight @ part.cross - (weight @ part.cross).T
    return torch.trace(root @ inner @ root.T).item()


def taken_apart(squares, root, width, keep=0):
    weight = torch.linalg.solve(squares.gram, squares.cross).T
    return remove_greedily(torch.linalg.inv(squares.gram), root @ weight, width, keep)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_order_and_errors_are_those_of_solving_again_after_each_removal(width, seed):
    squares, root = problem(width=width, seed=seed)
    found = taken_apart(squares, root, width)
    present, base = list(range(8)), error(squares, torch.arange(8 * width), root)
    for step, unit in enumerate(found.order.tolist()):
        after = {
            u: error(squares, unit_columns(torch.tensor([v for v in present if v != u], dtype=torch.long), width), root)
            for u in present
        }
        assert unit == min(after, key=after.get)
        assert found.errors[step + 1].item() == pytest.approx(after[unit] - base, rel=1e-8)
        present.remove(unit)


@pytest.mark.parametrize("width", [1, 2])
def test_error_of_one_unit_is_the_increase_of_the_least_squares_error(width):
    """S' = I."""
    squares, _ = problem(width=width)
    identity = torch.eye(5, dtype=torch.float64)
    weight, _ = squares.solve(0.0)
    errors = unit_errors(torch.linalg.inv(squares.gram), weight.clone(), width, Factors())
    for unit in range(8):
        rest = unit_columns(torch.tensor([u for u in range(8) if u != unit]), width)
        increase = error(squares, rest, identity) - error(squares, torch.arange(8 * width), identity)
        assert errors[unit].item() == pytest.approx(increase, rel=1e-8)


def test_greedy_is_close_to_the_best_subset():
    """Every subset of 4 of 8 solved from scratch: how far greedy is from the best, and below the mean of all."""
    for seed in range(5):
        squares, root = problem(seed=seed)
        greedy = taken_apart(squares, root, 1).errors[4].item()
        base = error(squares, torch.arange(8), root)
        all_errors = sorted(error(squares, torch.tensor(s), root) - base for s in itertools.combinations(range(8), 4))
        assert all_errors[0] <= greedy * (1 + 1e-9)
        assert greedy <= all_errors[len(all_errors) // 10]


def test_what_is_kept_does_not_hang_on_the_matrices_being_compacted(monkeypatch):
    squares, root = problem(units=40)
    whole = taken_apart(squares, root, 1)
    monkeypatch.setattr(removal, "SLACK", 1.0)  # never compacted
    never = taken_apart(squares, root, 1)
    assert torch.equal(whole.order, never.order)
    torch.testing.assert_close(whole.errors, never.errors, rtol=1e-8, atol=0)
    stopped = taken_apart(squares, root, 1, keep=10)
    assert torch.equal(stopped.kept(10), whole.kept(10)) and len(stopped.errors) == 31


def test_several_at_once_add_up_to_nearly_the_error_of_one_at_a_time(monkeypatch):
    squares, root = problem(units=120, tokens=400, mixing=0.05)
    one = taken_apart(squares, root, 1)
    monkeypatch.setattr(removal, "STEP", 1 / 16)
    several = taken_apart(squares, root, 1)
    for gone in (30, 60, 100):
        rest = several.order[gone:].sort().values
        exact = error(squares, rest, root) - error(squares, torch.arange(120), root)
        assert several.errors[gone].item() == pytest.approx(exact, rel=1e-6)
        assert several.errors[gone] == pytest.approx(one.errors[gone].item(), rel=0.05)


def exhaustive(curves, costs, budget):
    """The lowest sum of errors within the budget, every allocation tried."""
    ranges = [range(len(curve)) for curve in curves]
    fits = (c for c in itertools.product(*ranges) if sum(k * f for k, f in zip(c, costs, strict=True)) <= budget)
    return min(sum(curve[k].item() for curve, k in zip(curves, c, strict=True)) for c in fits)


@pytest.mark.parametrize("seed", range(20))
def test_allocation_of_convex_curves_is_within_a_unit_of_the_best(seed):
    generator = torch.Generator().manual_seed(seed)
    curves = [torch.rand(n, generator=generator, dtype=torch.float64).sort().values.cumsum(0) for n in (4, 8, 4, 8)]
    curves = [monotone(torch.cat([torch.zeros(1), c])) for c in curves]
    costs, budget = [3.0, 1.0, 3.0, 1.0], 40 * torch.rand(1, generator=generator).item()
    counts = allocate(curves, [UnitCost(cost) for cost in costs], budget)
    spent = sum(k * f for k, f in zip(counts, costs, strict=True))
    assert spent <= budget
    assert spent > budget - 1 or spent == 40
    reached = sum(curve[k].item() for curve, k in zip(curves, counts, strict=True))
    assert reached <= exhaustive(curves, costs, min(budget, 40) - 2) + 1e-12, "two units of slack are enough"


def test_a_bump_in_a_curve_is_bridged():
    """Two units together are worth much, the first alone nothing: both are taken."""
    bump = torch.tensor([10.0, 10.0, 0.0])
    line = torch.tensor([4.0, 2.0, 0.0])
    assert allocate([bump, line], [UnitCost(1.0)] * 2, 2.0) == [2, 0]


def test_monotone_turns_removed_into_kept():
    assert monotone(torch.tensor([0.0, 1.0, 3.0, 2.0])).tolist() == [3.0, 3.0, 1.0, 0.0]


def test_units_that_come_free_are_kept_and_grains_are_whole():
    """A latency: constant up to four units, then linear; and widths in grains of three."""
    curve = monotone(torch.arange(13.0) ** 2)
    for budget in (0.0, 2.0, 3.0, 5.0, 7.5, 20.0):
        (count,) = allocate([curve], [UnitCost(1.0, base=2.0, free=4)], budget)
        assert count == max(k for k in range(13) if UnitCost(1.0, base=2.0, free=4).of(k, 12) <= budget)
        grained = allocate([curve, curve], [UnitCost(1.0, grain=3)] * 2, budget)
        assert all(count % 3 == 0 for count in grained) and sum(grained) <= budget


@pytest.mark.parametrize("width", [1, 2])
def test_an_inverse_that_is_none_is_one_line(width):
    """Its factors would be finite numbers that mean nothing."""
    inverse, root = -torch.eye(8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    with pytest.raises(UserError, match="no solution: raise the method's ridge"):
        remove_greedily(inverse, root, width)
