"""The refit: steps of Adam on all weights that are left of a block, input weights included, towards the target of its update."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune import processes
from kprune.cuda_graph import Captured
from kprune.data import rows_of
from kprune.errors import UserError
from kprune.models import Block
from kprune.models.surgery import output_weight
from kprune.solve.least_squares import LeastSquares
from kprune.streams import CalibrationState


def own_parameters(block: Block) -> list[Tensor]:
    """Return the weights and biases of the linear modules of a block with units."""
    return [p for module in block.linears for p in module.parameters()]


def explained(block: Block, problem: LeastSquares, root: Tensor) -> float:
    """Return Σ_t w_t (‖R r_t‖² − ‖R (r_t − W f_t − c)‖²): how much of its targets r a block's output projection explains.

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
    tokens: int,
) -> None:
    """Take steps of Adam on Σ_t w_t ‖R (r_t − Sub_S(X_S)_t)‖² over the block's own weights, in place.

    This is the least squares that `KPrunePlus.solve` solves, with errors in the metric RᵀR. For given features, the best output
    projection is the same in any metric. Here the features change, too; if they can't reach the target, which features are best
    depends on the metric. No gradient leaves the block.

    Args:
        states: taken in another order in every epoch; r is `CalibrationState.update_target`.
        weights: w_t per state, [B, T].
        root: R [d, d].
        epochs: passes over the tokens; the learning rate falls linearly to 0.
        tokens: largest number of tokens of a step, padding counted; a state with more tokens takes several steps. With several
            processes, a state is one step, and each process has its own rows of the state.

    Raises:
        UserError: the steps lead to weights that are not finite.
    """
    parameters = own_parameters(block)
    metric = root.T @ root
    metric = (metric / metric.diagonal().mean()).to(parameters[0].dtype)
    descent = Descent(block, parameters, metric, lr)
    steps: dict[int, Callable[[float], None]] = {}
    for state, w in zip(states, weights, strict=True):
        own = descent.steps(state, w * state.real, tokens)
        steps |= {state.number: own[0]} if processes.count() > 1 else dict(enumerate(own, len(steps)))
    count = int(processes.gathered(torch.tensor(list(steps))).max()) + 1
    descent.factor = count / processes.total(sum(int(state.real.sum()) for state in states))
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.requires_grad_(True)
    orders = [torch.randperm(count, generator=generator).tolist() for _ in range(epochs)]
    for share, number in zip(linear_decay(epochs * count), chain.from_iterable(orders), strict=True):
        steps.get(number, descent.without_rows)(share)
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    if not all(torch.isfinite(p).all() for p in parameters):
        raise UserError(f"the refit of a block leads to no finite weights: lower refit_lr={lr:g}")


def linear_decay(count: int) -> Iterator[float]:
    """Yield the share of the learning rate for each of `count` steps: linearly from 1 towards 0 (torch's `LinearLR`)."""
    share = 1.0
    for left in range(count, 0, -1):
        yield share
        share *= 1 - 1 / left


class Descent:
    """Steps of Adam on a block's weights. On a GPU, the step of a state is captured once, and replayed for other rows of it.

    Args:
        metric: M = RᵀR [d, d].
        lr: learning rate of the first step.

    Attributes:
        factor: what a step's sum over its tokens is multiplied by.
    """

    def __init__(self, block: Block, parameters: Sequence[Tensor], metric: Tensor, lr: float):
        self.block, self.parameters, self.metric, self.lr = block, parameters, metric, lr
        self.factor = 1.0
        on_gpu = parameters[0].is_cuda
        # A graph would keep a number as it was when it was captured.
        self.rate = torch.tensor(lr, device=parameters[0].device) if on_gpu else lr
        self.optimiser = torch.optim.Adam(parameters, self.rate, fused=True, capturable=on_gpu)
        self.pool = torch.cuda.graph_pool_handle() if on_gpu else None

    def steps(self, state: CalibrationState, weights: Tensor, tokens: int) -> list[Callable[[float], None]]:
        """Return the steps of a state, functions of the share of the learning rate.

        Args:
            weights: w_t [B, T], 0 at padding.
        """
        parts = row_parts(state, tokens)
        if len(parts) == 1:
            return [partial(self.take, self.captured(state, partial(self.step, state, weights)))]
        # Examples of several choices have different numbers of rows.
        of_size = {len(rows): RowsStep(self, state, weights, rows, counted) for rows, counted in parts}
        return [partial(self.take, partial(of_size[len(rows)], rows, counted)) for rows, counted in parts]

    def captured(self, state: CalibrationState, step: Callable[[], None]) -> Callable[[], None]:
        """Return a step of a state that a GPU can replay, if the state's tensors stay where they are."""
        return Captured(step, state.device, self.pool) if state.stays and processes.count() == 1 else step

    def take(self, step: Callable[[], None], share: float) -> None:
        """Take a step at a share of the learning rate."""
        self.set_rate(share)
        step()

    def without_rows(self, share: float) -> None:
        """Take a step that other processes have examples of, and this process has none."""
        for parameter in self.parameters:
            parameter.grad = None
        self.take(self.update_weights, share)

    def set_rate(self, share: float) -> None:
        """Set the learning rate to a share of the first step's."""
        if isinstance(self.rate, Tensor):
            self.rate.fill_(share * self.lr)
        else:
            self.optimiser.param_groups[0]["lr"] = share * self.lr

    def step(self, state: CalibrationState, weights: Tensor) -> None:
        """Take a step for the tokens of a state."""
        set_gradients(self.block, state, weights, self.metric, self.factor)
        self.update_weights()

    def update_weights(self) -> None:
        """Take a step of Adam with the gradients summed over all processes."""
        if processes.count() > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                processes.add_up([parameter.grad])
        with warnings.catch_warnings():
            # A step is captured after the first, which is taken as it is.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            self.optimiser.step()


class RowsStep:
    """The step of some rows of a state; on a GPU, one graph for all rows of the same number."""

    def __init__(
        self, descent: Descent, state: CalibrationState, weights: Tensor, rows: Tensor, counted: Tensor
    ) -> None:
        self.descent, self.state, self.weights = descent, state, weights
        # A graph reads its tensors where they were when it was captured.
        self.rows, self.counted = rows.clone(), counted.clone()
        self.run = descent.captured(state, self.step)

    def __call__(self, rows: Tensor, counted: Tensor) -> None:
        """Take the step of rows as `row_parts` gives them."""
        self.rows.copy_(rows)
        self.counted.copy_(counted)
        self.run()

    def step(self) -> None:
        """Take the step of the rows at hand."""
        self.descent.step(self.state.some_rows(self.rows), self.weights[self.rows] * self.counted[:, None])


def row_parts(state: CalibrationState, tokens: int) -> list[tuple[Tensor, Tensor]]:
    """Return a state's rows in parts of the same number of examples, of about `tokens` tokens each, padding counted.

    Returns:
        per part, the rows' numbers [b], and whether each row counts [b] bool: if the last part would be smaller, rows of the part
        before it, which do not count again, fill it up.
    """
    examples = state.examples
    size = math.ceil(examples / math.ceil(state.real.numel() / tokens))
    numbers = torch.arange(len(state.real), device=state.device)
    found = []
    for start in range(0, examples, size):
        first = min(start, examples - size)
        rows = numbers[rows_of(state.batch, slice(first, first + size))]
        found.append((rows, rows >= numbers[rows_of(state.batch, slice(start, None))][0]))
    return found


def set_gradients(block: Block, state: CalibrationState, weights: Tensor, metric: Tensor, factor: float) -> None:
    """Set the gradients of the block's weights to those of `factor` times Σ_t w_t mᵀ M m, m the residuals of a state's tokens.

    The gradient with respect to m, 2 w M m, is computed here: autograd through the sum would multiply by M once more. The
    product is a linear layer's, so that `precision="reduced"` applies to it: a step of Adam may be coarse.

    Args:
        weights: w_t [B, T], 0 at padding.
        metric: M = RᵀR [d, d].
    """
    with torch.enable_grad():
        m = residual(block, state)
    slope = 2 * factor * weights[..., None] * F.linear(m.detach(), metric)
    parameters = own_parameters(block)
    # A weight that the output does not depend on has no gradient.
    gradients = torch.autograd.grad(m, parameters, slope, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def residual(block: Block, state: CalibrationState) -> Tensor:
    """Return r − Sub_S(X_S), the target of the block's update less the update: [B, T, d]."""
    return state.update_target() - block.update(state.student, state.context)
