"""The Fisher mask search: the heads and neurons of most importance that fit a budget (Kwon et al., Algorithm 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.budgets import UnitCost
from kprune.errors import UserError
from kprune.solve.mask_search import BUDGET_ROUNDING


def search(
    heads: Sequence[Tensor], neurons: Sequence[Tensor], head_cost: UnitCost, neuron_cost: UnitCost, budget: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Search the split of the budget between heads and neurons with the largest total importance.

    For every number of heads kept, the rest of the budget goes to the most important neurons; the split with the
    largest total importance is kept. Exact for a diagonal Fisher.

    Of splits with the same importance the one with the most heads is taken, so that less is left of the budget than one more
    unit costs. If a number of units are free, as under a measured latency, every block pays the base cost and keeps its best
    units of that number.

    Departures from the authors' loop: it starts at one head, here at none; it also compares splits whose heads alone cost more
    than the budget, and may choose one; for a latency it also tries to do without whole blocks, the least important first, and
    takes the base cost of the others off the budget again at every step.

    Args:
        heads, neurons: per block, the importance of its units, [units] and not negative.
        head_cost, neuron_cost: without a grain, which `Kwon.check_grain` refuses.
        budget: in the costs' unit.

    Returns:
        masks of the heads and of the neurons, per block [units] (bool, True = kept).

    Raises:
        UserError: the budget does not pay for the base cost of every block.
    """
    head_order, head_gain, free_heads = _ranked(heads, head_cost.free)
    neuron_order, neuron_gain, free_neurons = _ranked(neurons, neuron_cost.free)
    spare = budget * (1 + BUDGET_ROUNDING) - sum(len(h) > 0 for h in heads) * head_cost.base
    spare -= sum(len(n) > 0 for n in neurons) * neuron_cost.base
    if spare < 0:
        raise UserError("the budget is less than what the blocks cost at least: ask for a smaller reduction")
    left = spare - head_cost.per_unit * torch.arange(len(head_gain), dtype=torch.float64)
    left = left[left >= 0]
    # If no block has neurons, a neuron costs 0, and the division gives infinity or NaN.
    affordable = (left / neuron_cost.per_unit).nan_to_num().clamp(max=len(neuron_gain) - 1).long()
    total = head_gain[: len(left)] + neuron_gain[affordable]
    most_heads = len(total) - 1 - int(total.flip(0).argmax())
    return (
        _masks(heads, head_order[: free_heads + most_heads]),
        _masks(neurons, neuron_order[: free_neurons + int(affordable[most_heads])]),
    )


def _ranked(importance: Sequence[Tensor], free: int) -> tuple[Tensor, Tensor, int]:
    """Return all blocks' units in the order they are taken, the `free` best of each block first.

    Returns:
        indices into the units of all blocks; the importance that 0, 1, 2, ... units beyond the free ones add up to;
        the number of free ones.
    """
    flat = torch.cat([i.double() for i in importance])
    start, first = 0, torch.zeros(len(flat), dtype=torch.bool)
    for of_sublayer in importance:
        first[start + of_sublayer.argsort(descending=True, stable=True)[:free]] = True
        start += len(of_sublayer)
    order = flat.masked_fill(first, float("inf")).argsort(descending=True, stable=True)
    gain = torch.cat([flat.new_zeros(1), flat[order[int(first.sum()) :]].cumsum(0)])
    return order, gain, int(first.sum())


def _masks(importance: Sequence[Tensor], kept: Tensor) -> list[Tensor]:
    sizes = [len(i) for i in importance]
    mask = torch.zeros(sum(sizes), dtype=torch.bool)
    mask[kept] = True
    return list(mask.split(sizes))
