"""Physical pruning: linear layers shrink, an emptied sublayer costs nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kprune.transformer.adapter import Adapter, Sublayer


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
    take_units(sublayer, units)


@torch.no_grad()
def take_units(sublayer: Sublayer, units: Tensor) -> None:
    """Make a sublayer of these units (at least one) in this order, in place; their order does not change its function."""
    columns = unit_columns(units.to(sublayer.projection.weight.device), sublayer.unit_size)
    for linear in sublayer.inputs:
        linear.weight = nn.Parameter(linear.weight[columns].clone(), linear.weight.requires_grad)
        linear.bias = nn.Parameter(linear.bias[columns].clone(), linear.bias.requires_grad)
        linear.out_features = len(columns)
    projection = sublayer.projection
    projection.weight = nn.Parameter(projection.weight[:, columns].clone(), projection.weight.requires_grad)
    projection.in_features = len(columns)


def keep_layers(adapter: Adapter, layers: Sequence[int]) -> None:
    """Keep the layers with these indices and drop the others whole, residual connections and norms included, in place.

    The adapter is of the model as it was: make another for what is left.
    """
    adapter.encoder.layer = nn.ModuleList([adapter.encoder.layer[index] for index in layers])
    adapter.model.config.num_hidden_layers = len(layers)
