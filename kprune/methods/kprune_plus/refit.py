"""The refit: steps of Adam on what is left of a block, input weights included, towards what the teacher adds there."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kprune.errors import UserError
from kprune.models import Block
from kprune.streams import CalibrationState


@torch.no_grad()
def refit(
    block: Block,
    states: Sequence[CalibrationState],
    weights: Sequence[Tensor],
    root: Tensor,
    epochs: int,
    lr: float,
    solve: Callable[[], float | None],
) -> float | None:
    """Take steps of Adam on Σ_t w_t ‖R (X_T + Sub_T(X_T) − X_S − Sub_S(X_S))_t‖² over the block's own weights, in place.

    The re-solve's least squares, in a metric: the metric makes no difference to the best output projection of features that
    are given, but it does to features that are too few for their target. No gradient leaves the block. If the sum is
    no smaller in the end, after `solve`, the weights stay as they were.

    Args:
        states: a step each; `student` at the block's input X_S, `teacher` at X_T + Sub_T(X_T), before a norm that comes last.
        weights: w_t per state, [B, T].
        root: R [d, d].
        epochs: passes over the tokens; the learning rate falls linearly to 0.
        solve: the re-solve of the output projection for the new features; gives its ridge.

    Returns:
        what `solve` gave; None if the weights stay as they were.

    Raises:
        UserError: the steps lead to what is not finite.
    """
    parameters = [p for module in (*block.inputs, block.output) for p in module.parameters()]
    metric = root.T @ root
    metric = (metric / metric.diagonal().mean()).to(parameters[0].dtype)
    batches = [(state, w * state.real) for state, w in zip(states, weights, strict=True)]
    before, was = sum(error(block, *batch, metric).item() for batch in batches), [p.clone() for p in parameters]
    descend(block, batches, metric, parameters, epochs, lr)
    if not all(torch.isfinite(p).all() for p in parameters):
        raise UserError(f"the refit of a block leads to no finite weights: lower refit_lr={lr:g}")
    ridge = solve()
    after = sum(error(block, *batch, metric).item() for batch in batches)
    if after < before:
        return ridge
    for parameter, value in zip(parameters, was, strict=True):
        parameter.copy_(value)
    return None


def descend(
    block: Block,
    batches: Sequence[tuple[CalibrationState, Tensor]],
    metric: Tensor,
    parameters: Sequence[Tensor],
    epochs: int,
    lr: float,
) -> None:
    """Take a step per batch `epochs` times, each time in another order."""
    tokens = sum(state.real.sum().item() for state, _ in batches)
    optimiser = torch.optim.Adam(parameters, lr, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=epochs * len(batches))
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.requires_grad_(True)
    for _ in range(epochs):
        for index in torch.randperm(len(batches), generator=generator).tolist():
            optimiser.zero_grad()
            state, weights = batches[index]
            differentiate(block, state, weights, metric, len(batches) / tokens)
            optimiser.step()
            schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None


def missing(block: Block, state: CalibrationState) -> Tensor:
    """Return what the block is asked to add and does not, X_T + Sub_T(X_T) − X_S − Sub_S(X_S) in full: [B, T, d]."""
    return state.asked() - block.update(state.student, state.context)


def error(block: Block, state: CalibrationState, weights: Tensor, metric: Tensor) -> Tensor:
    """Return the sum of `refit` over a state's tokens, M = RᵀR its metric: a scalar. `weights` are 0 at padding."""
    m = missing(block, state)
    return (weights * (m @ metric * m).sum(dim=-1)).sum()


def differentiate(block: Block, state: CalibrationState, weights: Tensor, metric: Tensor, factor: float) -> None:
    """Add the gradient of `factor` times `error` to those of the block's weights.

    With respect to what is missing, m, it is 2 w M m; autograd through `error` would multiply by M once more.
    """
    with torch.enable_grad():
        m = missing(block, state)
    m.backward(2 * factor * weights[..., None] * (m.detach() @ metric))
