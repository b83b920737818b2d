"""Physical pruning: linear layers shrink, an emptied sublayer costs nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kprune.models.adapter import Adapter, Sublayer


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


def keep_masked(sublayers: Sequence[Sublayer], masks: Sequence[Tensor]) -> list[list[int]]:
    """Keep the units whose mask ([units] per sublayer, bool) is True and remove all others, in place.

    Returns:
        per sublayer, the indices of the kept units among those that were there.
    """
    kept = [mask.nonzero()[:, 0] for mask in masks]
    for sublayer, units in zip(sublayers, kept, strict=True):
        keep_units(sublayer, units)
    return [units.tolist() for units in kept]


@torch.no_grad()
def scale_units(sublayer: Sublayer, scales: Tensor) -> None:
    """Fold real-valued masks [units] into the output projection's weights, in place."""
    weight = sublayer.projection.weight
    weight.mul_(scales.repeat_interleave(sublayer.unit_size).to(weight))


def keep_layers(adapter: Adapter, layers: Sequence[int]) -> None:
    """Keep the layers with these indices and drop the others whole, residual connections and norms included, in place.

    The adapter is of the model as it was: make another for what is left.
    """
    adapter.encoder.layer = nn.ModuleList([adapter.encoder.layer[index] for index in layers])
    adapter.model.config.num_hidden_layers = len(layers)
