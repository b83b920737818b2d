"""Masks over heads and neurons as hooks on the output projections. They change what a model computes, not its cost."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from kprune.models.adapter import Adapter, Sublayer


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


@contextmanager
def caught(sublayers: Sequence[Sublayer], side: str) -> Iterator[list[Tensor]]:
    """Within, the inputs or outputs ("input", "output") of the output projections are collected, as leaves or nodes of
    a graph that begins at the lowest of them; sublayers without units have none."""
    seen: list[Tensor] = []

    def node(tensor: Tensor) -> Tensor:
        # What comes from below is a constant: the graph begins at the first tensor caught.
        seen.append(tensor if tensor.requires_grad else tensor.detach().requires_grad_())
        return seen[-1]

    handles = []
    for sublayer in sublayers:
        if sublayer.units == 0:
            continue
        if side == "input":
            handles.append(sublayer.projection.register_forward_pre_hook(lambda module, inputs: (node(inputs[0]),)))
        else:
            handles.append(sublayer.projection.register_forward_hook(lambda module, inputs, output: node(output)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def features_and_gradients(
    adapter: Adapter,
    start: int,
    hidden: Tensor,
    attention_mask: Tensor | None,
    batch: dict[str, Tensor],
    losses: Callable[..., Sequence[Tensor]],
) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Features f of every sublayer from `start` up and the gradients of one or more losses with respect to them.

    A mask m multiplies a unit's features, so its derivative at m = 1 is the sum of f ∂loss/∂f over the unit's columns
    and the tokens; `mask_gradients` adds up the tokens.

    Args:
        hidden: input of sublayer `start`, [B, T, d].
        losses: takes the model's output, gives scalars; without one there is no backward pass.

    Returns:
        per sublayer, f and a gradient per loss, tensors [B, T, units * unit_size] without graph.
    """
    sublayers = adapter.sublayers[start:]
    with torch.enable_grad(), caught(sublayers, "input") as features:
        values = losses(adapter.run(start, hidden, attention_mask, batch))
    pairs = iter(zip((f.detach() for f in features), gradients(values, features), strict=True))
    nothing = hidden.new_zeros(*hidden.shape[:2], 0)
    return [next(pairs) if sublayer.units else (nothing, (nothing,) * len(values)) for sublayer in sublayers]


def gradients(values: Sequence[Tensor], nodes: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Per node, the gradient of every one of some scalars of the same graph; without nodes there is no graph."""
    if not nodes or not values:
        return [()] * len(nodes)
    last = len(values) - 1
    per_value = [torch.autograd.grad(value, nodes, retain_graph=k < last) for k, value in enumerate(values)]
    return list(zip(*per_value, strict=True))


def mask_gradients(features: Tensor, gradient: Tensor, unit_size: int) -> Tensor:
    """Gradients of one mask per dimension, for each example: [B, units, unit_size] in float64."""
    return (features * gradient).sum(dim=1).double().unflatten(-1, (-1, unit_size))
