"""How many units each sublayer keeps: one threshold on error per FLOP over all sublayers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.mask_search import ROUNDING


def allocate(curves: Sequence[Tensor], costs: Sequence[float], budget: float) -> list[int]:
    """Units to keep per sublayer, so that the errors add up to as little as the budget allows.

    Curves are replaced by their lower convex hulls, on which taking the steps in the order of error saved per cost is
    optimal. What is left below the next step is filled with the best single units that fit.

    Args:
        curves: per sublayer, [units + 1] errors with 0, 1, ... units kept, all in one unit.
        costs: FLOPs or milliseconds of one unit, per sublayer.
        budget: the cost that may be kept.
    """
    steps = []
    for index, (curve, cost) in enumerate(zip(curves, costs, strict=True)):
        errors = curve.tolist()
        corners = convex_hull(errors)
        for low, high in zip(corners, corners[1:], strict=False):
            steps.append(((errors[low] - errors[high]) / ((high - low) * cost), index, low, high))
    counts, spare = [0] * len(curves), budget * (1 + ROUNDING)
    for _, index, low, high in sorted(steps, key=lambda step: -step[0]):
        # Within a step units are worth the same, so that a part of it may be taken; steps above a part may not.
        if counts[index] == low:
            taken = min(high - low, int(spare // costs[index]))
            counts[index] += taken
            spare -= taken * costs[index]
    return counts


def convex_hull(errors: Sequence[float]) -> list[int]:
    """Corners of the lower convex hull of a curve over 0, 1, ..., the ends among them."""
    corners: list[int] = []
    for point in range(len(errors)):
        while len(corners) >= 2:
            first, last = corners[-2:]
            slope = (errors[last] - errors[first]) * (point - last)
            if slope < (errors[point] - errors[last]) * (last - first):
                break
            corners.pop()
        corners.append(point)
    return corners


def monotone(errors: Tensor) -> Tensor:
    """[units + 1] errors by units kept, from errors by units removed; never more with one unit more."""
    return torch.cummax(errors, dim=0).values.flip(0)
