"""Masks over heads and neurons as hooks on the output projections. They change what a model computes, not its cost."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from kprune.models.blocks import Block
from kprune.models.view import Context, ModelView


@contextmanager
def masked(view: ModelView, masks: Sequence[Tensor]) -> Iterator[None]:
    """Multiply every unit's features by its mask ([units] per block, bottom to top) while the context is open."""
    handles = []
    try:
        for block, mask in zip(view.blocks, masks, strict=True):
            if block.units:
                columns = mask.repeat_interleave(block.width)
                hook = lambda module, inputs, columns=columns: (inputs[0] * columns,)  # noqa: E731
                handles.append(block.output.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def projection_tensors(blocks: Sequence[Block], side: str) -> Iterator[list[Tensor]]:
    """Collect the inputs or outputs (`side`: "input", "output") of the output projections while the context is open.

    The graph that gradients flow through begins at the lowest collected tensor. A block without units gives no tensor.
    """
    seen: list[Tensor] = []

    def node(tensor: Tensor) -> Tensor:
        # Below the first of these tensors nothing needs a gradient, so the graph begins there.
        seen.append(tensor if tensor.requires_grad else tensor.detach().requires_grad_())
        return seen[-1]

    handles = []
    for block in blocks:
        if block.units == 0:
            continue
        if side == "input":
            handles.append(block.output.register_forward_pre_hook(lambda module, inputs: (node(inputs[0]),)))
        else:
            handles.append(block.output.register_forward_hook(lambda module, inputs, output: node(output)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def features_and_gradients(
    view: ModelView,
    start: int,
    hidden: Tensor,
    context: Context,
    batch: dict[str, Tensor],
    losses: Callable[..., Sequence[Tensor]],
) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Return features f of every block from `start` up and the gradients of one or more losses with respect to them.

    A mask m multiplies a unit's features, so its derivative at m = 1 is the sum of f ∂loss/∂f over the unit's columns
    and the tokens; `mask_gradients` adds up the tokens.

    Args:
        hidden: input of block `start`, as `Block.run` takes it.
        losses: takes the model's output, gives scalars; if it gives none, there is no backward pass.

    Returns:
        per block, f and a gradient per loss, tensors [B, T, units * width] without graph.
    """
    blocks = view.blocks[start:]
    with torch.enable_grad(), projection_tensors(blocks, "input") as features:
        values = losses(view.run(start, hidden, context, batch))
    pairs = iter(zip((f.detach() for f in features), gradients(values, features), strict=True))
    nothing = hidden.new_zeros(*hidden.shape[:2], 0)
    return [next(pairs) if block.units else (nothing, (nothing,) * len(values)) for block in blocks]


def gradients(values: Sequence[Tensor], nodes: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Return, for each node, the gradients of all scalars `values` of one graph: an empty tuple if there is no scalar."""
    if not nodes or not values:
        return [()] * len(nodes)
    last = len(values) - 1
    per_value = [torch.autograd.grad(value, nodes, retain_graph=k < last) for k, value in enumerate(values)]
    return list(zip(*per_value, strict=True))


def mask_gradients(features: Tensor, gradient: Tensor, width: int) -> Tensor:
    """Return the gradients of masks on single features, summed over the tokens of each row: [B, units, width] in float64.

    Args:
        features: f [B, T, units * width]. gradient: of a loss with respect to f, in the same shape.
    """
    return (features * gradient).sum(dim=1).double().unflatten(-1, (-1, width))
