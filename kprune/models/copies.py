"""Copies of a model."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from kprune.models.blocks import Block
from kprune.models.families import family_of
from kprune.models.offload import give_own_memory, moved, weights_of
from kprune.models.view import ModelView
from kprune.types import Model


def frozen_copy(model: Model) -> Model:
    """Return a copy in evaluation mode whose weights require no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def frozen_shared_copy(model: Model) -> Model:
    """Return a copy in evaluation mode that shares the memory of the model's weights, which require no gradient and must not be changed."""
    # `data`, not `detach`: after `detach`, autograd takes later changes of the copy (`copied_blocks`) for changes of the model.
    shared = {id(p): nn.Parameter(trackable(p.data), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared | {id(b): trackable(b.data) for b in model.buffers()}).eval()


def copied_blocks(view: ModelView) -> Iterator[Block]:
    """Yield the blocks of the view of a `frozen_shared_copy`, bottom to top; each may be changed until the next is asked for.

    A layer gets weights of its own when its first block is asked for, and is on the view's device while its blocks are given.
    After the last block, the whole model has weights of its own.
    """
    home = view.model.device
    for blocks in view.by_layer():
        module = blocks[0].module
        give_own_memory(weights_of(module))
        for block in blocks:
            with moved(module, view.device, home):
                yield block
    give_own_memory(view.ends())


def unshared(model: Model) -> Model:
    """Return a copy of a model that computes the same, and in which every layer has weights of its own, so that it can be pruned.

    The copy has more parameters: the 12 layers of ALBERT-base share 7 million, and have 85 million together in the copy.

    Raises:
        UserError: the family is not supported.
    """
    family = family_of(model)
    model = copy.deepcopy(model)
    layers: Any = model.base_model.get_submodule(family.layers)
    count = model.config.num_hidden_layers if family.groups else len(layers)
    # The layer's index among the shared ones, by transformers' own formula, rounding included.
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
