"""KPMS: knowledge-preserving mask search (K-prune paper, Algorithm 1), by sorting and cumulative costs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.budgets import UnitCost

BUDGET_ROUNDING = 1e-12
"""Share of a budget by which a cost may exceed it: sums of costs in float64 are rounded."""


def cost_of_each(scores: Sequence[Tensor], costs: Sequence[UnitCost]) -> Tensor:
    """Return the cost that every unit adds if each block's units are taken by falling scores: [units of all blocks]."""
    added = []
    for s, cost in zip(scores, costs, strict=True):
        of_sublayer = torch.empty(len(s), dtype=torch.float64)
        of_sublayer[s.double().cpu().argsort(descending=True, stable=True)] = cost.steps(len(s))
        added.append(of_sublayer)
    return torch.cat(added)


def threshold(scores: Sequence[Tensor], costs: Sequence[UnitCost], budget: float, strict: bool = False) -> float:
    """Return the lowest ν for which the units with score ≥ ν fit the budget (Algorithm 1); inf if none fits.

    Args:
        scores: per block, [units] scores, already divided by the cost of a unit.
        costs: per block, FLOPs in the paper.
        budget: what may be kept, in the costs' unit.
        strict: stop strictly under the budget and prune one unit at least, as the authors' code does.
    """
    values, order = torch.cat([s.double().cpu() for s in scores]).sort(descending=True)
    total = cost_of_each(scores, costs)[order].cumsum(0)
    fits = total < budget if strict else total <= budget * (1 + BUDGET_ROUNDING)
    if strict:
        fits &= values > values[-1]
    # Units with equal scores are kept or pruned together: only the last of each run of equals can be the cut.
    fits &= torch.cat([values[:-1] > values[1:], torch.tensor([True])])
    cuts = fits.nonzero()
    return values[cuts[-1]].item() if len(cuts) else float("inf")


def fill(scores: Tensor, kept: Tensor, cost: UnitCost, spare: float) -> Tensor:
    """Return the mask `kept` [units] (bool) with the best pruned units added, as many as the cost `spare` pays for."""
    further = cost.steps(len(scores))[int(kept.sum()) :].cumsum(0)
    room = int((further <= max(spare, 0.0) * (1 + BUDGET_ROUNDING)).sum())
    candidates = scores.double().masked_fill(kept, -float("inf")).argsort(descending=True, stable=True)
    filled = kept.clone()
    filled[candidates[:room]] = True
    return filled


def search(
    scores: Sequence[Tensor], costs: Sequence[UnitCost], budget: float, fill_budget: bool = True, strict: bool = False
) -> tuple[Tensor, float]:
    """Search the threshold over all blocks given, and return the mask of the first.

    Returns:
        mask [units] (bool, True = kept) of `scores[0]`, and the threshold ν.
    """
    nu = threshold(scores, costs, budget, strict)
    kept = scores[0].double() >= nu
    if fill_budget:
        used = sum(c.of(int((s.double() >= nu).sum()), len(s)) for s, c in zip(scores, costs, strict=True))
        kept = fill(scores[0], kept, costs[0], budget - used)
    return kept, nu


def greedy(scores: Sequence[Tensor], costs: Sequence[UnitCost], budget: float) -> list[Tensor]:
    """Choose the masks of all blocks at once: units in the order of their scores, each kept if it still fits the budget.

    In the end, each further unit would cost more than is left of the budget.

    Args:
        scores: per block, [units]; of equal scores, the lower block's and lower unit's comes first.
        costs: per block.
        budget: what may be kept, in the costs' unit.

    Returns:
        per block, [units] (bool, True = kept).
    """
    sizes = [len(s) for s in scores]
    flat = torch.cat([s.double().cpu() for s in scores])
    cost = cost_of_each(scores, costs)
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    kept = torch.zeros(len(flat), dtype=torch.bool)
    waiting, spare = flat.argsort(descending=True, stable=True), budget * (1 + BUDGET_ROUNDING)
    while len(waiting):
        total = cost[waiting].cumsum(0)
        fitting = int((total <= spare).sum())
        kept[waiting[:fitting]] = True
        spare -= float(total[fitting - 1]) if fitting else 0.0
        # What a block's next unit costs does not change: if it does not fit, no further unit of that block does.
        waiting = waiting[fitting:]
        waiting = waiting[owner[waiting] != owner[waiting[:1]]]
    return list(kept.split(sizes))
