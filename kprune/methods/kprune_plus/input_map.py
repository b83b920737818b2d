"""The affine map from what the student's blocks read to what the teacher's read, folded into the student's input weights."""

from collections.abc import Sequence

from torch import Tensor

from kprune import processes
from kprune.methods.kprune_plus.refit import own_parameters
from kprune.models import Block
from kprune.models.surgery import input_weight
from kprune.solve.least_squares import LeastSquares
from kprune.streams import CalibrationState


def fold_map(
    block: Block, original: Block, states: Sequence[CalibrationState], weights: Sequence[Tensor], ridge: float
) -> None:
    """Fold an affine map of a block's input into its input weights: the map that comes closest to the teacher's input.

    The map has a constant only if all input modules have a bias to hold it.

    Args:
        weights: of the tokens, per state [B, T].
        ridge: relative to the mean of the Gram matrix's diagonal.
    """
    d = block.hidden_size
    squares = LeastSquares.empty(d, d, states[0].device)
    for state, w in zip(states, weights, strict=True):
        reads = block.norm_before(state.student)[state.real]
        squares.add(reads, original.norm_before(state.teacher)[state.real] - reads, w[state.real])
    squares.add_up()
    affine = all(module.bias is not None for module in block.inputs)
    change, _ = (squares.centred() if affine else squares).solve(ridge)
    constant = squares.constant(change) if affine else None
    for module in block.inputs:
        weight = input_weight(module).double()
        if constant is not None and module.bias is not None:
            module.bias.copy_(module.bias.double() + weight @ constant)
        input_weight(module).copy_(weight + weight @ change)
    processes.broadcast(own_parameters(block))
