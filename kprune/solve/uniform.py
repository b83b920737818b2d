"""The same numbers of units in every layer: one of heads and one of neurons, chosen for all layers together."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from kprune.budgets import Budget, UnitCost
from kprune.budgets.costs import whole_cost
from kprune.errors import OutOfReach
from kprune.models import ModelView
from kprune.models.family import Kind
from kprune.models.uniform import allowed_units, check_alike
from kprune.solve.mask_search import BUDGET_ROUNDING

KINDS: tuple[Kind, ...] = ("heads", "neurons")


def uniform_counts(
    view: ModelView, curves: Sequence[Tensor], budget: Budget, kinds: Collection[Kind] = KINDS
) -> list[int]:
    """Return the number of units to keep per block, the same in every layer, with the least sum of errors within a budget.

    Args:
        view: of the dense model; its layers are alike.
        curves: per block, [units + 1] errors with 0, 1, ... units kept, never rising.
        kinds: units that may go.

    Raises:
        OutOfReach: the fewest units that a stock config can say cost more than the budget leaves.
    """
    names = [block.site.name for block in view.blocks]
    options = _options(view, kinds)
    costs = budget.costs(view)
    totals = {name: torch.zeros(2, len(curves[names.index(name)]), dtype=torch.float64) for name in options}
    for block, curve in zip(view.blocks, curves, strict=True):
        totals[block.site.name] += torch.stack([curve.double().cpu(), costs[block.name].by_count(block.units)])
    errors, spent = ({name: total[row].tolist() for name, total in totals.items()} for row in range(2))
    limit = budget.limit(view) * (1 + BUDGET_ROUNDING)
    *others, last = sorted(options, key=lambda name: len(options[name]))
    best: tuple[tuple[float, float, int], dict[str, int]] | None = None
    for counts in product(*(options[name] for name in others)):
        chosen = dict(zip(others, counts, strict=True))
        spare = limit - sum(spent[name][count] for name, count in chosen.items())
        fitting = [count for count in options[last] if spent[last][count] <= spare]
        if fitting:
            chosen[last] = fitting[-1]
            error, cost = (sum(of[name][count] for name, count in chosen.items()) for of in (errors, spent))
            # Among choices of equal error, the one that costs the most, then the one that keeps the most units.
            rank = error, -cost, -sum(chosen.values())
            if best is None or rank < best[0]:
                best = rank, chosen
    if best is None:
        raise _out_of_reach(view, options, costs)
    return [best[1][name] for name in names]


def best_units(scores: Tensor, count: int) -> Tensor:
    """Return the sorted indices of the `count` highest scores [units]; of equal scores, the first are taken."""
    return scores.double().argsort(descending=True, stable=True)[:count].sort().values


def curve_of_scores(scores: Tensor, cost: UnitCost) -> Tensor:
    """Return the summed importance of the units removed if the best 0, 1, ... units of a block are kept: [units + 1].

    Args:
        scores: importance of each unit over its cost, [units], not negative.
    """
    rising = (scores.double().cpu() * cost.per_unit).sort().values.cumsum(0)
    return torch.cat([rising.new_zeros(1), rising]).flip(0)


def check_uniform(view: ModelView, budget: Budget) -> None:
    """Check, before anything is measured, that a budget can be met by layers that are alike.

    Raises:
        UserError: the model's layers are not alike.
        OutOfReach: the budget leaves less than the fewest units cost.
    """
    check_alike(view)
    options, costs = _options(view, KINDS), budget.costs(view)
    if _least(view, options, costs) > budget.limit(view) * (1 + BUDGET_ROUNDING):
        raise _out_of_reach(view, options, costs)


def _options(view: ModelView, kinds: Collection[Kind]) -> dict[str, list[int]]:
    """Return the numbers of units that may be kept in every layer, rising, by the name of the sublayer."""
    return {
        site.name: allowed_units(view, site) if site.kind in kinds else [_present(view, site.name)]
        for site in view.sites
    }


def _present(view: ModelView, name: str) -> int:
    return next(block.units for block in view.blocks if block.site.name == name)


def _least(view: ModelView, options: Mapping[str, Sequence[int]], costs: Mapping[str, UnitCost]) -> float:
    return sum(costs[block.name].of(options[block.site.name][0], block.units) for block in view.blocks)


def _out_of_reach(view: ModelView, options: Mapping[str, Sequence[int]], costs: Mapping[str, UnitCost]) -> OutOfReach:
    kept = " and ".join(f"{options[site.name][0]} {site.kind}" for site in view.sites)
    share = _least(view, options, costs) / whole_cost(view, costs)
    return OutOfReach(
        f"uniform=True keeps at least {kept} in every layer, the fewest that a {view.model.config.model_type} config can say, "
        f"and they cost {share:.1%} of the cost of all units, more than the budget leaves: ask for less, or leave uniform out"
    )
