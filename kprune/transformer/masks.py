"""Masks over heads and neurons as hooks on the output projections. They change what a model computes, not its cost."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from kprune.transformer.adapter import Adapter


@contextmanager
def masked(adapter: Adapter, masks: Sequence[Tensor]) -> Iterator[None]:
    """Within, every unit's features are multiplied by its mask ([units] per sublayer, bottom to top)."""
    handles = []
    try:
        for sublayer, mask in zip(adapter.sublayers, masks, strict=True):
            if sublayer.units:
                columns = mask.repeat_interleave(sublayer.unit_size)
                hook = lambda module, inputs, columns=columns: (inputs[0] * columns,)  # noqa: E731
                handles.append(sublayer.projection.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def features_and_gradients(
    adapter: Adapter,
    start: int,
    hidden: Tensor,
    attention_mask: Tensor | None,
    batch: dict[str, Tensor],
    loss: Callable[..., Tensor],
) -> list[tuple[Tensor, Tensor]]:
    """Features f of every sublayer from `start` up and the gradients of a loss with respect to them.

    A mask m multiplies a unit's features, so its derivative at m = 1 is the sum of f ∂loss/∂f over the unit's columns
    and the tokens; `mask_gradients` adds up the tokens.

    Args:
        hidden: input of sublayer `start`, [B, T, d].
        loss: takes the model's output, gives a scalar.

    Returns:
        per sublayer, two tensors [B, T, units * unit_size] without graph.
    """
    features: list[Tensor] = []

    def catch(module, inputs):
        # The lowest sublayer's input is a constant: the graph begins at its features.
        f = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
        features.append(f)
        return (f,)

    present = [sublayer for sublayer in adapter.sublayers[start:] if sublayer.units]
    handles = [sublayer.projection.register_forward_pre_hook(catch) for sublayer in present]
    try:
        with torch.enable_grad():
            value = loss(adapter.run(start, hidden, attention_mask, batch))
    finally:
        for handle in handles:
            handle.remove()
    caught = iter(zip(features, torch.autograd.grad(value, features), strict=True))
    nothing = hidden.new_zeros(*hidden.shape[:2], 0)
    pairs = [next(caught) if s.units else (nothing, nothing) for s in adapter.sublayers[start:]]
    return [(f.detach(), g) for f, g in pairs]


def mask_gradients(features: Tensor, gradient: Tensor, unit_size: int) -> Tensor:
    """Gradients of one mask per dimension, for each example: [B, units, unit_size] in float64."""
    return (features * gradient).sum(dim=1).double().unflatten(-1, (-1, unit_size))
