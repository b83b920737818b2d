"""Greedy removal of units with compensation (optimal brain surgeon, by groups).

A block's output projection W sits at the least-squares optimum of a problem with Gram matrix H. Removing the columns
g and solving again for the rest raises the error, in a metric S on the output, by

    Δ_g = tr(S W_g ([H⁻¹]_gg)⁻¹ W_gᵀ),

and leaves W − W_g ([H⁻¹]_gg)⁻¹ [H⁻¹]_g: and the inverse H⁻¹ − [H⁻¹]_:g ([H⁻¹]_gg)⁻¹ [H⁻¹]_g: (Hassibi and Stork 1993;
for structures Kurtic et al. 2023, ZipLM).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.errors import UserError
from kprune.models.surgery import unit_columns

# Share of the units present that is removed between two updates of the inverse; small enough that the order hardly
# differs from one unit at a time (a test), large enough that the work is a handful of passes over the matrix.
STEP = 1 / 64
# Share of the rows that may be dead before they are dropped from the matrices.
SLACK = 0.2


@dataclass
class Removal:
    """The order in which the units of a block were removed, and what that cost.

    order: [units] indices, the first removed first; those never removed come last. errors: [removed + 1], the error
    added when so many are removed, errors[0] = 0.
    """

    order: Tensor
    errors: Tensor

    def kept(self, count: int) -> Tensor:
        """Return the `count` units that are removed last, sorted."""
        return self.order[len(self.order) - count :].sort().values


def remove_greedily(inverse: Tensor, root: Tensor, width: int, keep: int = 0) -> Removal:
    """Remove units greedily, each time those whose removal raises the error least if the rest is solved for again.

    Args:
        inverse: H⁻¹ [n, n], n = units * width; destroyed.
        root: S^{1/2} W [d, n] at the optimum of H; destroyed.
        width: columns of a unit.
        keep: number of units at which to stop.

    Returns:
        The order and the errors added, float64.

    Raises:
        UserError: H⁻¹ is not positive definite, up to rounding.
    """
    units = len(inverse) // width
    present = torch.arange(units, device=inverse.device)  # units whose rows the matrices still have
    alive = torch.ones(units, dtype=torch.bool, device=inverse.device)
    left, order, added = units, [], [torch.zeros(1, dtype=torch.float64, device=inverse.device)]
    factors = Factors()
    while left > keep:
        scores = unit_errors(inverse, root, width, factors).masked_fill(~alive, float("inf"))
        count = 1 if width > 1 else min(max(1, int(left * STEP)), left - keep)
        gone = scores.argsort(stable=True)[:count]
        columns = unit_columns(gone, width)
        factor = factors.of(inverse[columns[:, None], columns])
        # L⁻¹ Wᵀ: the error of removing several at once splits into what each adds after those before it.
        whitened = torch.linalg.solve_triangular(factor, root[:, columns].T, upper=False)
        added.append(whitened.square().sum(dim=1).unflatten(0, (-1, width)).sum(dim=1).double())
        link = torch.linalg.solve_triangular(factor, inverse[columns], upper=False)
        inverse.addmm_(link.T, link, alpha=-1)
        root.addmm_(whitened.T, link, alpha=-1)
        order.append(present[gone])
        alive[gone] = False
        left -= count
        # A removed unit has no link to the others left; an identity in its place keeps its block invertible until it is dropped.
        inverse[columns, columns] = 1
        if left < len(alive) * (1 - SLACK):
            columns = unit_columns(alive.nonzero()[:, 0], width)
            inverse, root = inverse[columns[:, None], columns], root[:, columns]
            present, alive = present[alive], alive[alive]
    order.append(present[alive])
    factors.check()
    return Removal(torch.cat(order), torch.cat(added).cumsum(0))


def unit_errors(inverse: Tensor, root: Tensor, width: int, factors: "Factors") -> Tensor:
    """Return Δ of every unit present if it alone were removed: [units]."""
    if width == 1:
        return root.square().sum(dim=0) / inverse.diagonal()
    units = len(inverse) // width
    blocks = inverse.unflatten(0, (units, width)).unflatten(2, (units, width))
    diagonal = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    whitened = torch.linalg.solve_triangular(
        factors.of(diagonal), root.unflatten(1, (units, width)).permute(1, 2, 0), upper=False
    )
    return whitened.square().sum(dim=(1, 2))


class Factors:
    """Cholesky factors that are checked once, at the end: for each check, a GPU must finish all work under way."""

    def __init__(self) -> None:
        self.failed: list[Tensor] = []

    def of(self, matrices: Tensor) -> Tensor:
        """Return the factors of matrices; if a matrix is not positive definite, its factor is meaningless, and `check` raises."""
        factors, failed = torch.linalg.cholesky_ex(matrices, check_errors=False)
        self.failed.append(failed.any())
        return factors

    def check(self) -> None:
        """Check that all matrices so far were positive definite.

        Raises:
            UserError: a matrix was not.
        """
        if self.failed and torch.stack(self.failed).any():
            raise UserError("the removal of units has no solution: raise the method's ridge")
