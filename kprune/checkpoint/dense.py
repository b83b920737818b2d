"""The stock architecture with zeros in place of removed units: it loads everywhere, and costs what the dense model costs."""

import copy
from collections.abc import Sequence

import torch

from kprune.checkpoint.classes import DENSE, stock_class, stock_config
from kprune.models import Block, view_of
from kprune.models.modeling_kprune import FORMAT, sizes
from kprune.models.surgery import input_weight, output_weight, unit_columns, unit_rows
from kprune.plan import Plan
from kprune.types import Model


@torch.no_grad()
def densified(model: Model, plan: Plan | None = None) -> Model:
    """Return a stock model on the CPU that computes what a pruned one does, up to rounding.

    Args:
        plan: says the place of every unit in the stock model; without it, the units come first and the zeros behind them.
            Layers that the plan leaves out are missing from the stock model, too.
    """
    stock, config = stock_class(model), stock_config(model.config)
    config.architectures = [stock.__name__]
    # So that the folder is known as kprune's own, which `save` may replace.
    setattr(config, DENSE, FORMAT)
    # A fresh model draws its weights; the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        dense = stock(config).to(model.dtype)
    state, full = model.state_dict(), dense.state_dict()
    dense.load_state_dict(
        {name: tensor for name, tensor in state.items() if full[name].shape == tensor.shape}, strict=False
    )
    narrow, wide = view_of(model).blocks, view_of(dense).blocks
    # If an argument goes by heads, a head has one place.
    places = places_of(narrow, plan) | {block.name: block.heads for block in narrow if block.heads is not None}
    for block, original in zip(narrow, wide, strict=True):
        widen(block, original, places[block.name])
    if model.can_generate():
        dense.generation_config = copy.deepcopy(model.generation_config)
    return dense.train(model.training)


def places_of(blocks: Sequence[Block], plan: Plan | None) -> dict[str, Sequence[int]]:
    """Return the place of every unit in the stock model, by the pruned model's block."""
    if plan is None or plan.kept is None:
        return {block.name: range(block.units) for block in blocks}
    left_out = {str(layer) for layer in plan.layers_left_out}
    kept = [units for name, units in plan.kept.items() if name.partition(".")[0] not in left_out]
    return {block.name: units for block, units in zip(blocks, kept, strict=True)}


def widen(block: Block, original: Block, places: Sequence[int]) -> None:
    """Write a pruned block's weights into a stock block, zeros everywhere else, in place."""
    for module in original.inputs:
        module.weight.zero_()
        if module.bias is not None:
            module.bias.zero_()
    original.output.weight.zero_()
    if not block.units:
        return
    units = torch.tensor(places)
    for rows, wide, narrow in zip(block.site.inputs, original.inputs, block.inputs, strict=True):
        where = unit_rows(units, original.units, sizes(wide)[1], rows.parts)
        input_weight(wide)[where] = input_weight(narrow).cpu()
        if wide.bias is not None and narrow.bias is not None:
            wide.bias[where] = narrow.bias.cpu()
    output_weight(original)[:, unit_columns(units, block.width)] = output_weight(block).cpu()
