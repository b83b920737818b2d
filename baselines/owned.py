"""What a unit owns: rows of its block's input modules, columns of the output projection."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kprune.models import Block
from kprune.models.modeling_kprune import is_transposed
from kprune.types import Linear


def by_unit(columns: Tensor, block: Block) -> Tensor:
    """Return the sums over each unit's columns: [units], from [columns]."""
    return columns.unflatten(0, (-1, block.width)).sum(dim=1)


def owned_sums(block: Block, value: Callable[[nn.Parameter], Tensor]) -> Tensor:
    """Return the sum of a value over all weights that a unit owns, biases left out: [units] in float64.

    Args:
        value: gives the values of a weight matrix, in its shape.
    """
    if block.units == 0:
        return torch.zeros(0, dtype=torch.float64)
    return sum(incoming_sums(block, value), start=outgoing_sums(block, value))


def outgoing_sums(block: Block, value: Callable[[nn.Parameter], Tensor]) -> Tensor:
    """Return the sum of a value over each unit's columns of the output projection: [units] in float64."""
    return by_unit(_upright(block.output, value).sum(dim=0), block)


def incoming_sums(block: Block, value: Callable[[nn.Parameter], Tensor], biases: bool = False) -> list[Tensor]:
    """Return the sums of a value over each unit's rows of every input module: [units] in float64 each.

    Args:
        biases: whether the rows' entries of a bias count, too, where there is one.
    """
    sums = []
    for rows, module in zip(block.site.inputs, block.inputs, strict=True):
        of_rows = _upright(module, value).sum(dim=1)
        if biases and module.bias is not None:
            of_rows = of_rows + value(module.bias).double()
        sums.append(of_rows.view(rows.parts, block.units, -1).sum(dim=(0, 2)))
    return sums


def _upright(module: Linear, value: Callable[[nn.Parameter], Tensor]) -> Tensor:
    """Return the values of a module's weight as [outputs, inputs] in float64."""
    values = value(module.weight).double()
    return values.T if is_transposed(module) else values
