"""KPMS: knowledge-preserving mask search (K-prune paper, Algorithm 1), by sorting and cumulative FLOPs."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Sums of FLOPs are exact in float64 up to this share of the budget.
ROUNDING = 1e-12


def threshold(scores: Sequence[Tensor], flops: Sequence[float], budget: float, strict: bool = False) -> float:
    """The lowest ν for which the units with score ≥ ν fit the budget (Algorithm 1); inf where none fit.

    Args:
        scores: per sublayer, [units] scores, already divided by FLOPs.
        flops: FLOPs of one unit, per sublayer.
        budget: FLOPs that may be kept.
        strict: stop strictly under the budget and prune one unit at least, as the authors' code does.
    """
    flat = torch.cat([s.double().cpu() for s in scores])
    cost = torch.cat([torch.full((len(s),), float(f), dtype=torch.float64) for s, f in zip(scores, flops, strict=True)])
    values, order = flat.sort(descending=True)
    total = cost[order].cumsum(0)
    fits = total < budget if strict else total <= budget * (1 + ROUNDING)
    if strict:
        fits &= values > values[-1]
    # Units with equal scores are kept or pruned together: only the last of each run of equals can be the cut.
    fits &= torch.cat([values[:-1] > values[1:], torch.tensor([True])])
    cuts = fits.nonzero()
    return values[cuts[-1]].item() if len(cuts) else float("inf")


def fill(scores: Tensor, kept: Tensor, flops: float, spare: float) -> Tensor:
    """Add the best pruned units that still fit into `spare` FLOPs: the mask [units] (bool), with them."""
    room = int(spare * (1 + ROUNDING) // flops)
    if room <= 0:
        return kept
    candidates = scores.double().masked_fill(kept, -float("inf")).argsort(descending=True, stable=True)
    filled = kept.clone()
    filled[candidates[: min(room, int((~kept).sum()))]] = True
    return filled


def search(
    scores: Sequence[Tensor], flops: Sequence[float], budget: float, fill_budget: bool = True, strict: bool = False
) -> tuple[Tensor, float]:
    """The mask of the first sublayer given, searched over it and all sublayers above it.

    Returns:
        mask [units] (bool, True = kept) of `scores[0]`, and the threshold ν.
    """
    nu = threshold(scores, flops, budget, strict)
    kept = scores[0].double() >= nu
    if fill_budget:
        used = sum(float((s.double() >= nu).sum()) * f for s, f in zip(scores, flops, strict=True))
        kept = fill(scores[0], kept, flops[0], budget - used)
    return kept, nu


def greedy(scores: Sequence[Tensor], flops: Sequence[float], budget: float) -> list[Tensor]:
    """Masks of all sublayers at once: units in the order of their scores, each kept if it still fits the budget.

    What is left of the budget is less than the FLOPs of the cheapest unit that was pruned.

    Args:
        scores: per sublayer, [units]; of equal scores, the lower sublayer's and lower unit's comes first.
        flops: FLOPs of one unit, per sublayer.
        budget: FLOPs that may be kept.

    Returns:
        per sublayer, [units] (bool, True = kept).
    """
    sizes = [len(s) for s in scores]
    flat = torch.cat([s.double().cpu() for s in scores])
    cost = torch.tensor(list(flops), dtype=torch.float64).repeat_interleave(torch.tensor(sizes))
    kept = torch.zeros(len(flat), dtype=torch.bool)
    waiting, spare = flat.argsort(descending=True, stable=True), budget * (1 + ROUNDING)
    while len(waiting):
        # Up to the first unit that does not fit, all are kept; from there on, none as dear as it will ever fit.
        total = cost[waiting].cumsum(0)
        fitting = int((total <= spare).sum())
        kept[waiting[:fitting]] = True
        spare -= float(total[fitting - 1]) if fitting else 0.0
        waiting = waiting[fitting:]
        waiting = waiting[cost[waiting] <= spare]
    return list(kept.split(sizes))
