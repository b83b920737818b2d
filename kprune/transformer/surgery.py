"""Physical pruning: linear layers shrink, an emptied sublayer costs nothing."""

import torch
from torch import Tensor, nn

from kprune.transformer.adapter import Sublayer


def unit_columns(units: Tensor, unit_size: int) -> Tensor:
    """Feature columns of units: indices [k] to [k * unit_size]."""
    return (units[:, None] * unit_size + torch.arange(unit_size, device=units.device)).flatten()


@torch.no_grad()
def keep_units(sublayer: Sublayer, units: Tensor) -> None:
    """Keep the units with these indices (sorted, among those present) and remove all others, in place."""
    if len(units) == sublayer.units:
        return
    if len(units) == 0:
        sublayer.empty()
        return
    columns = unit_columns(units.to(sublayer.projection.weight.device), sublayer.unit_size)
    for linear in sublayer.inputs:
        linear.weight = nn.Parameter(linear.weight[columns].clone(), linear.weight.requires_grad)
        linear.bias = nn.Parameter(linear.bias[columns].clone(), linear.bias.requires_grad)
        linear.out_features = len(columns)
    projection = sublayer.projection
    projection.weight = nn.Parameter(projection.weight[:, columns].clone(), projection.weight.requires_grad)
    projection.in_features = len(columns)
