"""Physical pruning: linear modules get smaller; a block without units computes nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kprune.errors import UserError
from kprune.models.blocks import Block
from kprune.models.modeling_kprune import Emptied, OutputBias, is_transposed, read_heads, set_sizes, sizes
from kprune.models.view import ModelView
from kprune.types import Linear

PER_LAYER = ("layer_types", "no_rope_layers")
"""Settings of a config that have an entry for each layer."""


def unit_columns(units: Tensor, width: int) -> Tensor:
    """Return the feature columns, [k * width], of units given by their indices [k]."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()


def unit_rows(units: Tensor, present: int, outputs: int, parts: int) -> Tensor:
    """Return the rows of an input module that belong to units.

    Args:
        units: indices [k] among the units present.
        present: number of units present.
        outputs: all rows of the module, laid out as [parts, units, rows of one unit].
        parts: how often the rows of all units are repeated.
    """
    rows = torch.arange(outputs, device=units.device).view(parts, present, -1)
    return rows[:, units].flatten()


@torch.no_grad()
def keep_units(block: Block, units: Tensor) -> None:
    """Keep the units with these indices (sorted, among those present) and remove all others, in place."""
    if len(units) == block.units:
        return
    if len(units) == 0:
        empty(block)
        return
    take_units(block, units)


@torch.no_grad()
def take_units(block: Block, units: Tensor) -> None:
    """Reduce a block to these units (at least one), in this order, in place; the order does not change its function."""
    output, present = block.output, block.units
    units = units.to(output.weight.device)
    for rows, module in zip(block.site.inputs, block.inputs, strict=True):
        select_outputs(module, unit_rows(units, present, sizes(module)[1], rows.parts))
    select_inputs(output, unit_columns(units, block.width))
    set_attributes(block)
    if block.site.per_head:
        heads = block.heads or range(present)
        read_heads(block.core, block.site.per_head, [heads[unit] for unit in units.tolist()])


def select_outputs(module: Linear, rows: Tensor) -> None:
    """Keep some outputs of a linear module, in this order, in place."""
    _replace(module, "weight", module.weight[:, rows] if is_transposed(module) else module.weight[rows])
    if module.bias is not None:
        _replace(module, "bias", module.bias[rows])
    set_sizes(module, *sizes(module))


def select_inputs(module: Linear, columns: Tensor) -> None:
    """Keep some inputs of a linear module, in this order, in place."""
    _replace(module, "weight", module.weight[columns] if is_transposed(module) else module.weight[:, columns])
    set_sizes(module, *sizes(module))


def _replace(module: Linear, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value.clone(), getattr(module, name).requires_grad))


def set_attributes(block: Block) -> None:
    """Set the module attributes that hold a width to what the weights now have."""
    for path, value in width_attributes(block).items():
        owner, _, name = path.rpartition(".")
        setattr(block.module.get_submodule(owner), name, value)


def width_attributes(block: Block) -> dict[str, int]:
    """Return the module attributes of a block with units that hold a width, by their path below the layer."""
    amounts = {"units": block.units, "columns": block.columns}
    return {path: amounts[amount] for path, amount in block.site.attributes.items()} if block.units else {}


@torch.no_grad()
def empty(block: Block) -> None:
    """Remove all units of a block, in place; its residual connection, norm and output bias stay."""
    site, module, pair = block.site, block.module, block.attends
    bias = block.bias()
    trained = bias is not None and bias.requires_grad
    bias = None if bias is None else bias.detach().clone()
    inside = next((path for path in site.core if site.output.startswith(f"{path}.")), None)
    for path in site.core:
        output = site.output.removeprefix(f"{path}.") if path == inside else None
        core = module.get_submodule(path)
        layer = getattr(core, "layer_idx", getattr(core, "layer_id", None)) if pair else None
        norm = site.norm.removeprefix(f"{path}.") if site.norm and site.norm.startswith(f"{path}.") else None
        kept = None if norm is None else block.norm
        module.set_submodule(path, Emptied(output, bias if path == inside else None, pair, layer, norm, kept))
    if inside is None:
        module.set_submodule(site.output, OutputBias(bias))
    left = block.bias()
    if left is not None:
        left.requires_grad_(trained)


def keep_masked(blocks: Sequence[Block], masks: Sequence[Tensor]) -> list[list[int]]:
    """Keep the units whose mask ([units] per block, bool) is True and remove all others, in place.

    Returns:
        per block, the indices of the kept units among those that were there.
    """
    kept = [mask.nonzero()[:, 0] for mask in masks]
    for block, units in zip(blocks, kept, strict=True):
        keep_units(block, units)
    return [units.tolist() for units in kept]


@torch.no_grad()
def scale_units(block: Block, scales: Tensor) -> None:
    """Fold real-valued masks [units] into the output projection's weights, in place."""
    weight = output_weight(block)
    weight.mul_(scales.repeat_interleave(block.width).to(weight))


def output_weight(block: Block) -> Tensor:
    """Return W_out of a block with units as [d, columns], a view of the live weights."""
    weight = block.output.weight
    return weight.T if is_transposed(block.output) else weight


def input_weight(module: Linear) -> Tensor:
    """Return the weights of a linear module as [outputs, inputs], a view of the live weights."""
    return module.weight.T if is_transposed(module) else module.weight


def check_layers_can_go(view: ModelView) -> None:
    """Check that a layer computes the same after layers below it are removed.

    Raises:
        UserError: it does not, since its number is a part of what it computes.
    """
    setting = view.family.numbered
    value = getattr(view.model.config, setting) if setting else None
    if value:
        raise UserError(
            f"the model's config has {setting}={value}, so that a layer in another place is another function, and whole layers can't "
            "go: use a method that removes heads and neurons"
        )


def keep_layers(view: ModelView, layers: Sequence[int]) -> None:
    """Keep the layers with these indices and drop the others whole, residual connections and norms included, in place.

    Afterwards this view still lists the blocks of the whole model: make a new view.
    """
    kept = nn.ModuleList([view.layers[index] for index in layers])
    view.model.base_model.set_submodule(view.family.layers, kept)
    config = view.model.config
    config.num_hidden_layers = len(layers)
    for name in PER_LAYER:
        if getattr(config, name, None) is not None:
            setattr(config, name, [getattr(config, name)[index] for index in layers])
    # The key/value cache is indexed by these numbers.
    for number, layer in enumerate(kept):
        for module in layer.modules():
            for name in ("layer_idx", "layer"):
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, number)
