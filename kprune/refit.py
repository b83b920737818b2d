"""Refit: what is left of a sublayer, fitted to what the teacher adds there, input weights included."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kprune.calibration import CalibrationState
from kprune.transformer.adapter import Sublayer

# Tokens of a step, padding counted: the epochs count for more than the steps (docs/kprune_plus.md).
TOKENS = 1024


@torch.enable_grad()
def refit(
    sublayer: Sublayer,
    states: Sequence[CalibrationState],
    weights: Sequence[Tensor],
    root: Tensor,
    epochs: int,
    lr: float,
) -> None:
    """Steps of Adam on Σ_t w_t ‖R (X_T + Sub_T(X_T) − X_S − Sub_S(X_S))_t‖² over the sublayer's own weights, in place.

    The re-solve's least squares, in a metric: the metric makes no difference to the best output projection of features that
    are given, but it does to features that are too few for their target. No gradient leaves the sublayer.

    Args:
        states: `student` at the sublayer's input X_S, `teacher` at X_T + Sub_T(X_T), before the norm.
        weights: w_t per state, [B, T].
        root: R [d, d].
        epochs: passes over the tokens; the learning rate falls linearly to 0.
    """
    linears = [*sublayer.inputs, sublayer.projection]
    parameters = [p.requires_grad_(True) for linear in linears for p in (linear.weight, linear.bias)]
    root = (root / root.square().sum(dim=1).mean().sqrt()).to(parameters[0].dtype)
    pieces = [
        piece for state, w in zip(states, weights, strict=True)
        for piece in zip(state.pieces(TOKENS), w.split(state.piece_size(TOKENS)), strict=True)
    ]  # fmt: skip
    optimiser = torch.optim.Adam(parameters, lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=epochs * len(pieces))
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(pieces), generator=generator).tolist():
            state, w = pieces[index]
            missing = state.teacher - state.student - sublayer.update(state.student, state.attention_mask)
            loss = (w[state.real] * (missing[state.real] @ root.T).square().sum(dim=-1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
