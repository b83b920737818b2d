"""Copies of a model."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from kprune.models.blocks import Block
from kprune.models.offload import moved, own, weights_of
from kprune.models.view import ModelView, family_of
from kprune.types import Model


def frozen_copy(model: Model) -> Model:
    """Return a copy in evaluation mode whose weights ask for no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def frozen_view(model: Model) -> Model:
    """Return such a copy with the model's own weights in memory, for what is only read."""
    # `data` and no `detach`, which would count changes of a copy that `copied_blocks` makes as changes of the model's own.
    shared = {id(p): nn.Parameter(trackable(p.data), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared | {id(b): trackable(b.data) for b in model.buffers()}).eval()


def copied_blocks(view: ModelView) -> Iterator[Block]:
    """Give the blocks of a `frozen_view`'s view, bottom to top, each of which may be changed until the next is asked for.

    A layer gets weights of its own when its first block is asked for, and is where the view's blocks work as long as one of
    them is at hand. Behind the last, all of the model is a copy.
    """
    home = view.model.device
    for blocks in view.by_layer():
        module = blocks[0].module
        own(weights_of(module))
        for block in blocks:
            with moved(module, view.device, home):
                yield block
    own(view.ends())


def unshared(model: Model) -> Model:
    """Return a copy of a model in which every layer has weights of its own, so that it can be pruned: the same function.

    It costs parameters: the 12 layers of ALBERT-base share 7 million, and have 85 million between them afterwards, of which
    pruning removes its part.

    Raises:
        UserError: the family is not supported.
    """
    family = family_of(model)
    model = copy.deepcopy(model)
    layers: Any = model.base_model.get_submodule(family.layers)
    count = model.config.num_hidden_layers if family.groups else len(layers)
    # Which layer has which weights, as transformers computes it, rounding included.
    own = nn.ModuleList([copy.deepcopy(layers[int(i / (count / len(layers)))]) for i in range(count)])
    for module in own.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                setattr(module, name, nn.Parameter(weight.detach().clone(), weight.requires_grad))
    model.base_model.set_submodule(family.layers, own)
    if family.groups:
        setattr(model.config, family.groups, count)
    return model


def trackable(tensor: Tensor) -> Tensor:
    """Return a tensor that gradients can flow past: a copy if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
