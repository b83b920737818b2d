"""Copies of a model."""

import copy
from typing import Any

from torch import Tensor, nn

from kprune.models.view import family_of
from kprune.types import Model


def frozen_copy(model: Model) -> Model:
    """Return a copy in evaluation mode whose weights ask for no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def frozen_view(model: Model) -> Model:
    """Return such a copy with the model's own weights in memory, for what is only read."""
    shared = {id(p): nn.Parameter(trackable(p.detach()), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared | {id(b): trackable(b) for b in model.buffers()}).eval()


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
