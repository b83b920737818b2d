"""SparseGPT: weights that a module's output needs least go, those to their right make up for it (Frantar, Alistarh, ICML 2023)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from baselines.masking import Inputs, Masking, smallest
from kprune.errors import UserError
from kprune.settings_checks import check_count, check_positive
from kprune.solve.least_squares import add_lower, ridged_cholesky
from kprune.target import Target


@dataclass(frozen=True)
class SparseGPT(Masking):
    """Set to zero the weights that matter least to a module's output, and let the weights to their right make up for it.

    Algorithm 1 of Frantar & Alistarh 2023, with the choices of the authors' code: a share is met in each block of columns,
    all rows together; a pattern in each group of consecutive inputs of a row, when the sweep gets there; all modules of a layer
    are solved with its inputs while it is still dense. Departures from their code: it sets the weights of inputs that are always
    zero to zero beyond the share, here they are the first to go within it; it counts such an input as 1 in the mean that the
    damping is relative to, here as 0; it removes one weight more than the share in each block; and it solves in float32, here in
    float64. The factor 2/n of its Hessian makes no difference to other inputs. Its options to quantize, too, and to solve the
    modules of a layer one after the other are left out.

    Attributes:
        damping: added to the Gram matrix's diagonal, relative to the diagonal's mean (their `percdamp`).
        columns: columns of a block, in which weights are compared with one another (their `blocksize`).
    """

    name: str = "sparsegpt"
    damping: float = 0.01
    columns: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(damping=self.damping)
        check_count(columns=self.columns)

    def inputs(self, columns: int, sparsity: Target, device: torch.device) -> Inputs:
        """Return the Gram matrix of no tokens yet."""
        lower = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        return Gram(lower, sparsity, self.damping, self.columns)


@dataclass
class Gram(Inputs):
    """H = Σ x xᵀ over tokens: its lower triangle [columns, columns] in float64."""

    lower: Tensor
    sparsity: Target
    damping: float
    columns: int

    def add(self, inputs: Tensor) -> None:
        """Add tokens [N, columns]; products in their precision."""
        add_lower(self.lower, inputs, inputs)

    def masked(self, weight: Tensor) -> Tensor:
        """Return the weights [rows, columns] after the sweep."""
        alive = self.lower.diagonal() > 0
        return swept(weight.double(), self.root, alive, self.sparsity, self.columns)

    @cached_property
    def root(self) -> Tensor:
        """Return U of `inverse_root`, one for all modules with these inputs."""
        return inverse_root(self.lower, self.damping)


def inverse_root(lower: Tensor, damping: float) -> Tensor:
    """Return the upper triangular U with UᵀU = (H + damping · mean(diag H) · I)⁻¹ (Frantar & Alistarh 2023, 3.3).

    U_jj · U[j, j:] is the first row of the inverse of what is left of the damped H from column j on.

    Args:
        lower: the lower triangle of H [columns, columns] in float64.

    Raises:
        UserError: the damping is too little for a solution.
    """
    # The factor V with V Vᵀ = H is upper triangular from the last column backwards; its inverse is U.
    factor, used = ridged_cholesky(lower.tril().T.flip(0, 1), damping)
    if used > damping:
        raise UserError(f"SparseGPT has no solution with damping={damping:g}: give {used:g}")
    return torch.linalg.solve_triangular(factor.flip(0, 1), torch.eye(len(lower)).to(lower), upper=True)


def swept(weight: Tensor, root: Tensor, alive: Tensor, sparsity: Target, together: int) -> Tensor:
    """Return weights [rows, columns] after a sweep from left to right (Frantar & Alistarh 2023, Algorithm 1).

    If a weight w of column j is set to zero, the weights to its right in the row change by −w / U_jj · U[j, j+1:].

    Args:
        weight: in float64; stays as it is.
        root: U of `inverse_root`.
        alive: [columns] bool; inputs that are always zero are False, and their weights are the first to go.
        together: columns of a block, in which a share is met; for a pattern, rounded down to whole groups, one at least.
    """
    weight, columns, group = weight.clone(), weight.shape[1], sparsity.group
    step = together if group is None else max(together // group, 1) * group
    for start in range(0, columns, step):
        here = slice(start, min(start + step, columns))
        part, corner = weight[:, here], root[here, here]
        gone, errors = torch.zeros_like(part, dtype=torch.bool), torch.zeros_like(part)
        if group is None:
            scores = saliency(part, corner, alive[here])
            gone = smallest(scores.flatten(), round(sparsity.amount * scores.numel())).view_as(scores)
        for column in range(part.shape[1]):
            if group is not None and column % group == 0:
                among = slice(column, column + group)
                scores = saliency(part[:, among], corner[among, among], alive[here][among])
                gone[:, among] = smallest(scores, group - int(sparsity.amount))
            errors[:, column] = torch.where(gone[:, column], part[:, column], 0) / corner[column, column]
            part[:, column:] -= torch.outer(errors[:, column], corner[column, column:])
            # The update has made the removed weight zero but for rounding.
            part[gone[:, column], column] = 0
        weight[:, here.stop :] -= errors @ root[here, here.stop :]
    return weight


def saliency(weight: Tensor, root: Tensor, alive: Tensor) -> Tensor:
    """Return the squared error if a weight is removed and those to its right make up for it: w² / U_jj², [rows, columns]."""
    return torch.where(alive, weight.square() / root.diagonal().square(), 0)
