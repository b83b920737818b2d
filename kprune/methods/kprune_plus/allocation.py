"""How many units each block keeps, by the error curves."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from kprune.budgets import Budget
from kprune.errors import OutOfReach
from kprune.models import ModelView
from kprune.models.family import Kind
from kprune.solve.allocation import allocate
from kprune.solve.uniform import KINDS, uniform_counts

LEAST_NEURONS = 0.25
"""Groups of heads may go, too, if the budget would otherwise leave less than this share of the neurons' cost."""


def allocate_units(
    view: ModelView, curves: Sequence[Tensor], budget: Budget, kinds: Sequence[Kind] | Literal["auto"]
) -> list[int]:
    """Return the number of units to keep per block; units of a kind that may not go all stay.

    Raises:
        OutOfReach: the units that may not go cost more than the budget leaves.
    """
    kinds = prunable_kinds(view, budget) if kinds == "auto" else kinds
    if budget.uniform:
        return uniform_counts(view, curves, budget, kinds)
    costs, limit = budget.costs(view), budget.limit(view)
    rows = [(block, curve, block.kind in kinds) for block, curve in zip(view.blocks, curves, strict=True)]
    limit -= sum(costs[block.name].of(block.units, block.units) for block, _, free in rows if not free)
    if limit < 0:
        raise OutOfReach(
            f"kinds={list(kinds)} allows the removal of {' and '.join(kinds)} only, and the rest costs more than the budget leaves: ask "
            f"for less, or add {' and '.join(kind for kind in KINDS if kind not in kinds)} to kinds"
        )
    chosen = [(curve, costs[block.name]) for block, curve, free in rows if free]
    counts = iter(allocate([curve for curve, _ in chosen], [cost for _, cost in chosen], limit))
    return [next(counts) if free else block.units for block, _, free in rows]


def prunable_kinds(view: ModelView, budget: Budget) -> Sequence[Kind]:
    """Return the kinds of units that may be removed if `kinds` is "auto".

    Neurons alone, if a unit of an attention holds several query heads and the budget then leaves at least
    `LEAST_NEURONS` of the neurons' cost; else both. For so large a unit, the error curve is too optimistic
    (docs/notes/kprune_plus_experiments.md, "A decoder").
    """
    costs = budget.costs(view)
    heads, neurons = (sum(costs[b.name].of(b.units, b.units) for b in view.of_kind(kind)) for kind in KINDS)
    grouped = any(block.grouped for block in view.of_kind("heads"))
    return ("neurons",) if grouped and budget.limit(view) - heads >= LEAST_NEURONS * neurons else KINDS
