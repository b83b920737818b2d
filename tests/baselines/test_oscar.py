"""OSSCAR against brute force: every removal, every optimum, every subset."""

from itertools import combinations

import pytest
import torch
from decoders import block_features, prune, tiny_decoder
from tiny import tiny_calibration, tiny_model

from baselines.oscar import Oscar, Restricted, gains, swapped
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.surgery import output_weight, unit_columns


def problem(units=8, width=1, outputs=5, seed=0):
    """Correlated features, and a ridge."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    features = draw(40, 6) @ draw(6, units * width) + 0.3 * draw(40, units * width)
    gram = features.T @ features
    return gram + 0.01 * gram.diagonal().mean() * torch.eye(len(gram)), draw(outputs, units * width)


def optimum(gram, dense, units, width):
    """The least of tr (W₀ − W) H (W₀ − W)ᵀ over W with these units alone, as a least squares over a root of H; and W."""
    columns = unit_columns(torch.tensor(units, dtype=torch.long), width)
    root = torch.linalg.cholesky(gram).T
    target = root @ dense.T
    weight = torch.linalg.lstsq(root[:, columns], target, driver="gelsd").solution
    return (root[:, columns] @ weight - target).square().sum().item(), weight.T


def greedy(gram, dense, width, keep):
    """Remove the unit without which the least is least, one after the other."""
    left = list(range(len(gram) // width))
    while len(left) > keep:
        left = min((sorted(set(left) - {unit}) for unit in left), key=lambda u: optimum(gram, dense, u, width)[0])
    return left


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_units_and_weights_are_those_of_brute_force(family):
    """The lowest two blocks: the second one sees what the first one gives after it was pruned and fitted."""
    model, calibration = tiny_decoder(family), tiny_calibration()
    outcome = prune("oscar", model, ParametersBudget(0.6), calibration)
    pruned = view_of(outcome.model)
    below = tiny_decoder(family)
    for index, block in enumerate(view_of(model).blocks[:2]):
        kept = outcome.plan.kept[block.name]
        features = block_features(below, list(outcome.plan.kept.values()), index, calibration.batches())
        gram = features.T @ features
        gram += 1e-2 * gram.diagonal().mean() * torch.eye(len(gram))
        dense = output_weight(block).detach()
        assert greedy(gram, dense, block.width, len(kept)) == kept and len(kept) < block.units
        weight = optimum(gram, dense, kept, block.width)[1]
        torch.testing.assert_close(output_weight(pruned.blocks[index]), weight, rtol=1e-7, atol=1e-7)
        if block.bias() is not None:
            torch.testing.assert_close(pruned.blocks[index].bias(), block.bias())
        with torch.no_grad():
            columns = unit_columns(torch.tensor(kept), block.width)
            output_weight(view_of(below).blocks[index])[:, columns] = weight


@pytest.mark.parametrize("width", [1, 2])
def test_what_a_unit_would_gain(width):
    gram, dense = problem(units=6, width=width)
    stay, waiting = torch.tensor([0, 3, 4]), torch.tensor([1, 2, 5])
    before = optimum(gram, dense, stay.tolist(), width)[0]
    for unit, gain in zip(waiting.tolist(), gains(gram, dense, stay, waiting, width).tolist(), strict=True):
        assert gain == pytest.approx(before - optimum(gram, dense, [*stay.tolist(), unit], width)[0], rel=1e-7)


def test_what_is_explained_is_the_rest_of_the_whole():
    gram, dense = problem()
    solved = Restricted.to(gram, dense, torch.tensor([1, 4, 6]))
    error, weight = optimum(gram, dense, [1, 4, 6], 1)
    torch.testing.assert_close(solved.weight, weight)
    assert solved.explained == pytest.approx((dense @ gram @ dense.T).trace().item() - error)


def test_swaps_improve_on_the_removal_and_never_worsen_it():
    improved = best = 0
    for seed in range(20):
        gram, dense = problem(units=9, seed=seed)
        start = greedy(gram, dense, 1, 4)
        end = swapped(gram, dense, torch.tensor(start), 1, 30, 3).tolist()
        errors = {units: optimum(gram, dense, list(units), 1)[0] for units in combinations(range(9), 4)}
        assert errors[tuple(end)] <= errors[tuple(start)] * (1 + 1e-9)
        improved += errors[tuple(end)] < errors[tuple(start)] * (1 - 1e-6)
        best += errors[tuple(end)] == pytest.approx(min(errors.values()))
    assert improved and best >= 10


def test_swaps_lower_the_error_of_a_block_in_a_model():
    model, calibration = tiny_model(), tiny_calibration()
    errors = []
    for swaps in (0, 30):
        outcome = prune("oscar", model, FlopsBudget(0.75, 8.0), calibration, swaps=swaps)
        features = block_features(model, [], 0, calibration.batches())
        gram = features.T @ features + 1e-2 * (features.square().sum() / 32) * torch.eye(32)
        dense = output_weight(view_of(model).blocks[0]).detach()
        errors.append(optimum(gram, dense, list(outcome.plan.kept["0.attention"]), 8)[0])
    assert errors[1] <= errors[0] * (1 + 1e-9)


@pytest.mark.parametrize("settings", [{"ridge": -1.0}, {"swaps": -1}])
def test_settings_out_of_range(settings):
    with pytest.raises(UserError, match="out of range"):
        Oscar(**settings)
