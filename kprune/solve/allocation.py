"""How many units each block keeps: one threshold on error per FLOP over all blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.budgets import UnitCost
from kprune.solve.mask_search import BUDGET_ROUNDING


def allocate(curves: Sequence[Tensor], costs: Sequence[UnitCost], budget: float) -> list[int]:
    """Return the units to keep per block, so that the errors add up to as little as the budget allows.

    Curves are replaced by their lower convex hulls over the cost. On these, it is optimal to take the steps in the order of
    error saved per cost. Of a step that does not fit whole, as many units are taken as fit.

    Args:
        curves: per block, [units + 1] errors with 0, 1, ... units kept, never rising, all in one unit.
        costs: per block, in the unit of the budget: FLOPs, parameters or milliseconds.
        budget: the cost that may be kept.
    """
    steps, totals, counts = [], [], []
    for index, (curve, cost) in enumerate(zip(curves, costs, strict=True)):
        errors = curve.tolist()
        totals.append(cost.by_count(len(errors) - 1).tolist())
        corners = convex_hull(totals[-1], errors)
        counts.append(corners[0])
        for low, high in zip(corners, corners[1:], strict=False):
            gain = (errors[low] - errors[high]) / (totals[-1][high] - totals[-1][low])
            steps.append((gain, index, low, high))
    spare = budget * (1 + BUDGET_ROUNDING)
    for _, index, low, high in sorted(steps, key=lambda step: -step[0]):
        # A step is only taken if the block's step below it was taken whole.
        if counts[index] == low:
            total = totals[index]
            counts[index] = max(k for k in range(low, high + 1) if total[k] - total[low] <= spare)
            spare -= total[counts[index]] - total[low]
    return counts


def convex_hull(costs: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Return the indices of the corners of the lower convex hull of errors over costs; among equal costs, the last point counts.

    Args:
        costs: never falling.
    """
    corners: list[int] = []
    for point in range(len(errors)):
        if corners and costs[corners[-1]] == costs[point]:
            corners.pop()
        while len(corners) >= 2:
            first, last = corners[-2:]
            slope = (errors[last] - errors[first]) * (costs[point] - costs[last])
            if slope < (errors[point] - errors[last]) * (costs[last] - costs[first]):
                break
            corners.pop()
        corners.append(point)
    return corners


def monotone(errors: Tensor) -> Tensor:
    """Return errors by units kept, [units + 1], from errors by units removed; one more unit kept never raises the error."""
    return torch.cummax(errors, dim=0).values.flip(0)
