"""The refit: steps of Adam on what is left of a block, input weights included, towards what it is asked to add."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune import processes
from kprune.errors import UserError
from kprune.models import Block
from kprune.models.surgery import output_weight
from kprune.solve.least_squares import LeastSquares
from kprune.streams import CalibrationState


def own_parameters(block: Block) -> list[Tensor]:
    """Return the weights and biases of a block's linear modules."""
    return [p for module in (*block.inputs, block.output) for p in module.parameters()]


def explained(block: Block, problem: LeastSquares, root: Tensor) -> float:
    """Return Σ_t w_t (‖R r_t‖² − ‖R (r_t − W f_t − c)‖²): what a block's output projection makes up of its targets r.

    Args:
        problem: sums over tokens of the block's features f and its targets.
        root: R [d, d].
    """
    bias = block.bias()
    return problem.explained(output_weight(block).double(), None if bias is None else bias.double(), root)


def descend(
    block: Block,
    states: Sequence[CalibrationState],
    weights: Sequence[Tensor],
    root: Tensor,
    epochs: int,
    lr: float,
) -> None:
    """Take steps of Adam on Σ_t w_t ‖R (r_t − Sub_S(X_S)_t)‖² over the block's own weights, in place.

    The re-solve's least squares, in a metric: the metric makes no difference to the best output projection of features that
    are given, but it does to features that are too few for their target. No gradient leaves the block.

    Args:
        states: a step each, by their number, in another order in every epoch; r is what they ask of the block.
        weights: w_t per state, [B, T].
        root: R [d, d].
        epochs: passes over the tokens; the learning rate falls linearly to 0.

    Raises:
        UserError: the steps lead to what is not finite.
    """
    parameters = own_parameters(block)
    metric = root.T @ root
    metric = (metric / metric.diagonal().mean()).to(parameters[0].dtype)
    tokens = processes.total(sum(int(state.real.sum()) for state in states))
    steps = {state.number: (state, w) for state, w in zip(states, weights, strict=True)}
    count = int(processes.gathered(torch.tensor(list(steps))).max()) + 1
    optimiser = torch.optim.Adam(parameters, lr, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=epochs * count)
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.requires_grad_(True)
    for _ in range(epochs):
        for number in torch.randperm(count, generator=generator).tolist():
            optimiser.zero_grad()
            if number in steps:
                state, w = steps[number]
                differentiate(block, state, w * state.real, metric, count / tokens)
            add_up_gradients(parameters)
            optimiser.step()
            schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    if not all(torch.isfinite(p).all() for p in parameters):
        raise UserError(f"the refit of a block leads to no finite weights: lower refit_lr={lr:g}")


def add_up_gradients(parameters: Sequence[Tensor]) -> None:
    """Set gradients to their sums over all processes that share the work; one may have no example of a step."""
    if processes.count() > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            processes.add_up([parameter.grad])


def differentiate(block: Block, state: CalibrationState, weights: Tensor, metric: Tensor, factor: float) -> None:
    """Add the gradient of `factor` times Σ_t w_t mᵀ M m of a state's tokens to those of the block's weights.

    With respect to what is missing, m, it is 2 w M m; autograd through the sum would multiply by M once more. M is symmetric, and
    multiplied by as a linear layer, since a step may be coarse where a sum that is solved may not.

    Args:
        weights: w_t [B, T], 0 at padding.
        metric: M = RᵀR [d, d].
    """
    with torch.enable_grad():
        m = missing(block, state)
    m.backward(2 * factor * weights[..., None] * F.linear(m.detach(), metric))


def missing(block: Block, state: CalibrationState) -> Tensor:
    """Return what the block is asked to add and does not, r − Sub_S(X_S) in full: [B, T, d]."""
    return state.asked() - block.update(state.student, state.context)
