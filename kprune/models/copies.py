"""Copies of a model."""

import copy

from torch import Tensor, nn

from kprune.types import Model


def frozen_copy(model: Model) -> Model:
    """Return a copy in evaluation mode whose weights ask for no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def frozen_view(model: Model) -> Model:
    """Return such a copy with the model's own weights in memory, for what is only read, and reads inputs of any length."""
    shared = {id(p): nn.Parameter(trackable(p.detach()), requires_grad=False) for p in model.parameters()}
    view = copy.deepcopy(model, shared | {id(b): trackable(b) for b in model.buffers()}).eval()
    for module in view.modules():
        # A chunk's size must divide the length, and saves no memory at these sizes.
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0
    return view


def trackable(tensor: Tensor) -> Tensor:
    """Return a tensor that gradients can flow past: a copy if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
