"""The stock architecture with zeros in place of removed units: loads everywhere, costs what the dense model costs."""

import copy
from collections.abc import Sequence

import torch
import transformers
from torch import nn

from kprune.checkpoint import modeling_kprune
from kprune.checkpoint.classes import pruned_entries, stock_name
from kprune.models import adapter_for
from kprune.models.surgery import unit_columns


@torch.no_grad()
def densified(model: nn.Module, kept_units: Sequence[Sequence[int]] | None = None) -> nn.Module:
    """A stock model on the CPU that computes what a pruned one does, up to rounding.

    Args:
        kept_units: the place of every unit in the stock model, per sublayer, bottom to top (MHA then FFN); without it
            the units come first and the zeros behind them. Layers that the model has dropped whole (DynaBERT's depth) are
            empty there; the stock model has as many layers as the pruned one.
    """
    config = copy.deepcopy(model.config)
    for entry in pruned_entries(model):
        if hasattr(config, entry):
            delattr(config, entry)
    config.kprune_format = modeling_kprune.FORMAT
    with torch.random.fork_rng(
        devices=[]
    ):  # a fresh model draws its weights; the caller's random numbers stay as they were
        dense = getattr(transformers, stock_name(model))(config).to(model.dtype)
    state, full = model.state_dict(), dense.state_dict()
    dense.load_state_dict(
        {name: tensor for name, tensor in state.items() if full[name].shape == tensor.shape}, strict=False
    )
    narrow, wide = adapter_for(model).sublayers, adapter_for(dense).sublayers
    if kept_units is None:
        kept_units = [range(sublayer.units) for sublayer in narrow]
    elif len(kept_units) > len(narrow):
        kept_units = without_empty_layers(kept_units)
    for sublayer, stock, places in zip(narrow, wide, kept_units, strict=True):
        for linear in stock.inputs:
            linear.weight.zero_()
            linear.bias.zero_()
        stock.projection.weight.zero_()
        if sublayer.units == 0:
            continue
        columns = unit_columns(torch.tensor(places), sublayer.unit_size)
        for linear, kept in zip(stock.inputs, sublayer.inputs, strict=True):
            linear.weight[columns] = kept.weight.cpu()
            linear.bias[columns] = kept.bias.cpu()
        stock.projection.weight[:, columns] = sublayer.projection.weight.cpu()
    return dense.train(model.training)


def without_empty_layers(kept_units: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The sublayers of the layers that have a unit."""
    layers = zip(kept_units[0::2], kept_units[1::2], strict=True)
    return [units for layer in layers if any(layer) for units in layer]
