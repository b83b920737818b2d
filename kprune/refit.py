"""Refit: what is left of a sublayer, fitted to what the teacher adds there, input weights included."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kprune.calibration import CalibrationState
from kprune.errors import UserError
from kprune.transformer.adapter import Sublayer


@torch.no_grad()
def refit(
    sublayer: Sublayer,
    states: Sequence[CalibrationState],
    weights: Sequence[Tensor],
    root: Tensor,
    epochs: int,
    lr: float,
    solve: Callable[[], float | None],
) -> float | None:
    """Steps of Adam on Σ_t w_t ‖R (X_T + Sub_T(X_T) − X_S − Sub_S(X_S))_t‖² over the sublayer's own weights, in place.

    The re-solve's least squares, in a metric: the metric makes no difference to the best output projection of features that
    are given, but it does to features that are too few for their target. No gradient leaves the sublayer. Where the sum is
    no smaller in the end, after `solve`, the weights stay as they were.

    Args:
        states: a step each; `student` at the sublayer's input X_S, `teacher` at X_T + Sub_T(X_T), before the norm.
        weights: w_t per state, [B, T].
        root: R [d, d].
        epochs: passes over the tokens; the learning rate falls linearly to 0.
        solve: the re-solve of the output projection for the new features; gives its ridge.

    Returns:
        what `solve` gave; None where the weights stay as they were.

    Raises:
        UserError: the steps lead to what is not finite.
    """
    parameters = [p for linear in (*sublayer.inputs, sublayer.projection) for p in (linear.weight, linear.bias)]
    root = (root / root.square().sum(dim=1).mean().sqrt()).to(parameters[0].dtype)
    batches = list(zip(states, weights, strict=True))
    before, was = sum(error(sublayer, *batch, root).item() for batch in batches), [p.clone() for p in parameters]
    descend(sublayer, batches, root, parameters, epochs, lr)
    if not all(torch.isfinite(p).all() for p in parameters):
        raise UserError(f"the refit of a sublayer leads to no finite weights: lower refit_lr={lr:g}")
    ridge = solve()
    after = sum(error(sublayer, *batch, root).item() for batch in batches)
    if after < before:
        return ridge
    for parameter, value in zip(parameters, was, strict=True):
        parameter.copy_(value)
    return None


def descend(
    sublayer: Sublayer,
    batches: Sequence[tuple[CalibrationState, Tensor]],
    root: Tensor,
    parameters: Sequence[Tensor],
    epochs: int,
    lr: float,
) -> None:
    """`epochs` times a step per batch, each time in another order."""
    tokens = sum(state.real.sum().item() for state, _ in batches)
    optimiser = torch.optim.Adam(parameters, lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=epochs * len(batches))
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.requires_grad_(True)
    for _ in range(epochs):
        for index in torch.randperm(len(batches), generator=generator).tolist():
            with torch.enable_grad():
                loss = error(sublayer, *batches[index], root) * (len(batches) / tokens)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None


def error(sublayer: Sublayer, state: CalibrationState, weights: Tensor, root: Tensor) -> Tensor:
    """The sum of `refit` over a state's tokens: a scalar."""
    missing = state.teacher - state.student - sublayer.update(state.student, state.attention_mask)
    return (weights[state.real] * (missing[state.real] @ root.T).square().sum(dim=-1)).sum()
