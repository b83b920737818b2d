"""Network rewiring: the most important heads and neurons first, so that a narrower network is a prefix of a wider one
(DynaBERT, section 2.1)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from baselines.retrained.distillation import task_loss
from kprune.models import adapter_for
from kprune.models.adapter import Adapter, Sublayer, on_device
from kprune.models.copies import frozen_copy
from kprune.models.masks import masked
from kprune.models.surgery import take_units
from kprune.objectives import Objective


def rewire(
    model: nn.Module, objective: Objective, batches: Iterable[dict[str, Tensor]]
) -> tuple[nn.Module, list[list[int]]]:
    """A copy of the model, the same function, with its units in the order of their importance.

    Returns:
        the copy, and per sublayer the index in `model` of each of its units.
    """
    rewired = frozen_copy(model).requires_grad_(True)
    adapter = adapter_for(rewired)
    orders = [scores.argsort(descending=True, stable=True) for scores in importance(adapter, objective, batches)]
    for sublayer, order in zip(adapter.sublayers, orders, strict=True):
        if sublayer.units:
            take_units(sublayer, order)
    return rewired, [order.tolist() for order in orders]


def importance(adapter: Adapter, objective: Objective, batches: Iterable[dict[str, Tensor]]) -> list[Tensor]:
    """Per sublayer [units]: how much the task loss would change without a unit, to first order, absolute values summed over
    batches. |Σ h ∂L/∂h| for a head; |w₁ ∂L/∂w₁ + b₁ ∂L/∂b₁| + |w₂ ∂L/∂w₂| for a neuron, as in the authors' code."""
    totals = [torch.zeros(s.units, dtype=torch.float64, device=adapter.device) for s in adapter.sublayers]
    for batch in batches:
        batch = on_device(batch, adapter.device)
        masks = [torch.ones(s.units, device=adapter.device, requires_grad=True) for s in adapter.sublayers]
        adapter.model.zero_grad(set_to_none=True)
        with torch.enable_grad(), masked(adapter, masks):
            task_loss(adapter.model, batch, objective).backward()
        for sublayer, mask, total in zip(adapter.sublayers, masks, totals, strict=True):
            if sublayer.units:
                total += mask.grad.abs() if sublayer.kind == "mha" else _neuron_changes(sublayer)
    adapter.model.zero_grad(set_to_none=True)
    return totals


def _neuron_changes(sublayer: Sublayer) -> Tensor:
    outgoing = sublayer.projection.weight
    changes = (outgoing * outgoing.grad).sum(dim=0).abs()
    for linear in sublayer.inputs:
        changes = changes + ((linear.weight * linear.weight.grad).sum(dim=1) + linear.bias * linear.bias.grad).abs()
    return changes.detach()
