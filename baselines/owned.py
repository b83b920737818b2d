"""What a unit owns: rows of its block's input modules, columns of the output projection."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kprune.models import Block
from kprune.models.modeling_kprune import is_transposed
from kprune.types import Linear


def by_unit(columns: Tensor, block: Block) -> Tensor:
    """Return the sums over each unit's columns: [units] of [columns]."""
    return columns.unflatten(0, (-1, block.width)).sum(dim=1)


def owned_sums(block: Block, value: Callable[[nn.Parameter], Tensor]) -> Tensor:
    """Return the sum of a value over all weights that a unit owns, biases left out: [units] in float64.

    Args:
        value: gives the values of a weight matrix, in its shape.
    """
    if block.units == 0:
        return torch.zeros(0, dtype=torch.float64)

    def of(module: Linear) -> Tensor:
        values = value(module.weight).double()
        return values.T if is_transposed(module) else values

    sums = by_unit(of(block.output).sum(dim=0), block)
    for rows, module in zip(block.site.inputs, block.inputs, strict=True):
        sums = sums + of(module).sum(dim=1).view(rows.parts, block.units, -1).sum(dim=(0, 2))
    return sums
