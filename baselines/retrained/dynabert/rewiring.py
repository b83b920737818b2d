"""Network rewiring: the most important heads and neurons first, so that a narrower network is a prefix of a wider one
(DynaBERT, section 2.1)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from baselines.owned import incoming_sums, outgoing_sums
from baselines.retrained.distillation import task_loss
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.inputs import on_device
from kprune.models.masks import masked
from kprune.models.surgery import take_units
from kprune.objectives import Objective


def rewire(
    model: nn.Module, objective: Objective, batches: Iterable[dict[str, Tensor]]
) -> tuple[nn.Module, list[list[int]]]:
    """Return a copy of the model, the same function, with its units in the order of their importance.

    Returns:
        the copy, and per block the index in `model` of each of its units.
    """
    rewired = frozen_copy(model).requires_grad_(True)
    view = view_of(rewired)
    orders = [scores.argsort(descending=True, stable=True) for scores in importance(view, objective, batches)]
    for block, order in zip(view.blocks, orders, strict=True):
        if block.units:
            take_units(block, order)
    return rewired, [order.tolist() for order in orders]


def importance(view: ModelView, objective: Objective, batches: Iterable[dict[str, Tensor]]) -> list[Tensor]:
    """Return how much the task loss would change without a unit, per block [units], to first order.

    Absolute values are summed over batches: |Σ h ∂L/∂h| for a head; |w₁ ∂L/∂w₁ + b₁ ∂L/∂b₁| + |w₂ ∂L/∂w₂| for a
    neuron, as in the authors' code. A departure from it: their code does not clear gradients between batches, so that each
    absolute value is of the sum over all batches so far. In a gated network, each module (or fused pair) that feeds a neuron adds
    a term like the first; a module without a bias adds no term for it.
    """
    totals = [torch.zeros(s.units, dtype=torch.float64, device=view.device) for s in view.blocks]
    for batch in batches:
        batch = on_device(batch, view.device)
        masks = [torch.ones(s.units, device=view.device, requires_grad=True) for s in view.blocks]
        view.model.zero_grad(set_to_none=True)
        with torch.enable_grad(), masked(view, masks):
            task_loss(view.model, batch, objective).backward()
        for block, mask, total in zip(view.blocks, masks, totals, strict=True):
            if block.units:
                total += mask.grad.abs() if block.kind == "heads" else _neuron_changes(block)
    view.model.zero_grad(set_to_none=True)
    return totals


def _neuron_changes(block: Block) -> Tensor:
    def change(weight: nn.Parameter) -> Tensor:
        assert weight.grad is not None
        return (weight * weight.grad).detach()

    return sum((of.abs() for of in incoming_sums(block, change, biases=True)), outgoing_sums(block, change).abs())
