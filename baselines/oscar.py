"""OSSCAR: Meng, Ibrahim, Behdin, Hazimeh, Ponomareva, Mazumder, "OSSCAR: One-Shot Structured Pruning in Vision and Language
Models with Combinatorial Optimization" (ICML 2024, arXiv 2403.12983)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.same_share import BlockByBlock
from kprune.models import Block
from kprune.models.surgery import keep_units, output_weight, unit_columns
from kprune.settings_checks import check_not_negative, check_whole
from kprune.solve.least_squares import LeastSquares, ridged_cholesky
from kprune.solve.removal import Factors, remove_greedily, unit_errors

SWAPPED = {"heads": 5, "neurons": 10}
"""Units exchanged at once, as in the authors' code."""


@dataclass(frozen=True)
class Oscar(BlockByBlock):
    """Remove units one after the other, each time those whose removal costs least if the rest of the block makes up for it.

    The cost is ½ Σ_t ‖W₀ x_t − W x_t‖² + ½ λ ‖W₀ − W‖² for the block's own dense output projection W₀ and its features x above the
    pruned blocks. With H = Σ x xᵀ + λ I it is ½ tr (W₀ − W) H (W₀ − W)ᵀ, and without the columns R the
    optimum on the others, K, is W₀_K + W₀_R H_RK (H_KK)⁻¹. So the removal is that of K-prune+ in the metric S = I, with a target
    that does not make up for the error from below. Output biases stay as they are.

    Departures from the authors' code: a feed-forward network reads what the attention below it gives after pruning (there,
    both are measured in one pass with the layer still dense); heads go one by one (there, two at a time), and neurons by a
    64th of those present (there, ten at a time); the number of units to remove is rounded down (there, up), so that of few
    groups of heads fewer go; a feature that is always zero costs what λ says (there, its weights are set to zero first, so that
    its unit is among the first to go). Their target with features of the dense model (`--fullseq`) is left out.

    Attributes:
        ridge: λ over the mean of the Gram matrix's diagonal.
        swaps: rounds of the local search after the removal. In a round, 10 neurons or 5 heads that are kept are exchanged for
            as many that are not, if the cost falls; if it does not, the number is halved. 0, no search, is what the command of
            the authors' README does. In their option, which runs up to 30 rounds and stops at the first that gains nothing, a
            unit that has just gone may come back in the same round.
    """

    ridge: float = 1e-2
    swaps: int = 0
    name: str = "oscar"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(ridge=self.ridge)
        check_whole(swaps=self.swaps)

    def cut(self, block: Block, features: Iterable[Tensor], count: int) -> Tensor:
        """Remove units of a block, in place, set the output projection to its optimum on the others, and return the others."""
        dense = output_weight(block).double()
        squares = LeastSquares.empty(block.columns, 0, dense.device)
        for batch in features:
            squares.add(batch, batch.new_zeros(len(batch), 0))
        factor, _ = ridged_cholesky(squares.lower, self.ridge)
        kept = remove_greedily(torch.cholesky_inverse(factor), dense.clone(), block.width, count).kept(count)
        gram = factor @ factor.T
        if self.swaps:
            kept = swapped(gram, dense, kept, block.width, self.swaps, SWAPPED[block.kind])
        optimum = Restricted.to(gram, dense, unit_columns(kept, block.width)).weight
        keep_units(block, kept)
        if count:
            output_weight(block).copy_(optimum)
        return kept


@dataclass
class Restricted:
    """The solution of min tr (W₀ − W) H (W₀ − W)ᵀ over matrices W that are zero outside k columns.

    weight: the columns of the optimum [d, k]. factor: Cholesky factor of H on them [k, k]. explained: tr W₀ H W₀ᵀ less the minimum.
    """

    weight: Tensor
    factor: Tensor
    explained: float

    @classmethod
    def to(cls, gram: Tensor, dense: Tensor, columns: Tensor) -> "Restricted":
        """Solve the problem for columns given by their indices [k]; `gram` is H [n, n], `dense` W₀ [d, n]."""
        cross = gram[columns] @ dense.T
        factor = torch.linalg.cholesky(gram[columns[:, None], columns])
        weight = torch.cholesky_solve(cross, factor).T
        return cls(weight, factor, (weight.T * cross).sum().item())


def swapped(gram: Tensor, dense: Tensor, kept: Tensor, width: int, rounds: int, size: int) -> Tensor:
    """Return the units after a local search that never raises the cost, as many as `kept` has, sorted."""
    units = len(gram) // width
    size = min(size, len(kept) - 1, units - len(kept))
    best = Restricted.to(gram, dense, unit_columns(kept, width)).explained
    for _ in range(rounds):
        if size < 1:
            break
        trial = exchanged(gram, dense, kept, width, size)
        explained = Restricted.to(gram, dense, unit_columns(trial, width)).explained
        if explained > best * (1 + 1e-9):
            kept, best = trial, explained
        else:
            size //= 2
    return kept


def exchanged(gram: Tensor, dense: Tensor, kept: Tensor, width: int, size: int) -> Tensor:
    """Return the units after one exchange, sorted: `size` that cost least to remove go, then `size` that gain most are added."""
    now = Restricted.to(gram, dense, unit_columns(kept, width))
    errors = unit_errors(torch.cholesky_inverse(now.factor), now.weight, width, Factors())
    stay = kept[errors.argsort(stable=True)[size:]].sort().values
    out = torch.ones(len(gram) // width, dtype=torch.bool, device=gram.device)
    out[kept] = False
    waiting = out.nonzero()[:, 0]
    best = gains(gram, dense, stay, waiting, width).argsort(descending=True, stable=True)[:size]
    return torch.cat([stay, waiting[best]]).sort().values


def gains(gram: Tensor, dense: Tensor, stay: Tensor, waiting: Tensor, width: int) -> Tensor:
    """Return by how much each waiting unit would lower the minimum if it alone joined those that stay: [waiting]."""
    inside, outside = unit_columns(stay, width), unit_columns(waiting, width)
    left = Restricted.to(gram, dense, inside)
    link = gram[outside[:, None], inside]
    residual = gram[outside] @ dense.T - link @ left.weight.T
    whitened = torch.linalg.solve_triangular(left.factor, link.T, upper=False)
    schur = gram[outside[:, None], outside] - whitened.T @ whitened
    blocks = schur.unflatten(0, (-1, width)).unflatten(2, (-1, width)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    roots = torch.linalg.solve_triangular(
        torch.linalg.cholesky(blocks), residual.unflatten(0, (-1, width)), upper=False
    )
    return roots.square().sum(dim=(1, 2))
