"""KPWT: knowledge-preserving weight tuning, a least squares for one block's output projection."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kprune import processes
from kprune.errors import UserError

CENTRING_ROUNDING = 16
"""A centred Gram matrix counts as zero if its trace, over the uncentred one's, is at most this multiple of the features' precision."""
BLOCKS = 8
"""Rows of blocks in which a Gram matrix of many features is summed, to leave out the blocks above the diagonal."""


def add_lower(gram: Tensor, features: Tensor, weighted: Tensor) -> None:
    """Add FᵀG to the lower triangle of `gram` [n, n] (float64), for features F [N, n] and G = F times a weight per row.

    Products are in the features' precision. Entries above the diagonal are meaningless afterwards.
    """
    n = features.shape[1]
    rows = 1 if n < 64 * BLOCKS else BLOCKS
    edges = [n * row // rows for row in range(rows + 1)]
    for low, high in zip(edges, edges[1:], strict=False):
        gram[low:high, :high] += features[:, low:high].T @ weighted[:, :high]


def ridged_cholesky(gram: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Return the Cholesky factor of a Gram matrix with `ridge` times the mean of its diagonal added to the diagonal.

    If the matrix is not positive definite in spite of that, the ridge is raised tenfold, again and again, up to a hundred times
    the given one and at least 1e-2. The factor of a matrix of zeros is the identity.

    Args:
        gram: [n, n], positive semi-definite but for rounding; its lower triangle alone is read.

    Returns:
        the factor [n, n], and the ridge that was used (relative).

    Raises:
        UserError: the matrix holds NaN or infinity, or no such ridge makes it positive definite.
    """
    scale = gram.diagonal().mean()
    if not torch.isfinite(gram).all():
        raise UserError(
            "weight tuning has no solution: features or gradients hold NaN or infinity; check the checkpoint's weights"
        )
    if scale <= 0:
        return torch.eye(len(gram), dtype=gram.dtype, device=gram.device), ridge
    highest, diagonal = max(100 * ridge, 1e-2), gram.diagonal().clone()
    while ridge <= highest:
        # In place and undone, since a copy of a matrix of this size would raise the peak of memory.
        gram.diagonal().add_(ridge * scale)
        factor, failed = torch.linalg.cholesky_ex(gram)
        gram.diagonal().copy_(diagonal)
        if not failed and torch.isfinite(factor).all():
            return factor, ridge
        ridge = max(10 * ridge, 1e-12)
    raise UserError(f"weight tuning has no solution with a ridge of {highest:g}: raise the method's ridge")


@dataclass
class LeastSquares:
    """`argmin_{W, c} Σ_t w_t ‖r_t − W f_t − c‖²` from sums over tokens; never holds the features of all tokens.

    All sums in float64: lower, the lower triangle of Σ w f fᵀ [n, n], cross Σ w f rᵀ [n, d], features Σ w f [n], targets
    Σ w r [d], weight Σ w; count is the number of tokens, precision the rounding (relative) of the features' products.
    """

    lower: Tensor
    cross: Tensor
    features: Tensor
    targets: Tensor
    weight: float = 0.0
    count: int = 0
    precision: float = 0.0

    @classmethod
    def empty(cls, features: int, hidden_size: int, device: torch.device) -> "LeastSquares":
        """Return the problem of no token yet."""
        shapes = (features, features), (features, hidden_size), (features,), (hidden_size,)
        lower, cross, sums, targets = (torch.zeros(*shape, dtype=torch.float64, device=device) for shape in shapes)
        return cls(lower, cross, sums, targets)

    def add(self, features: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        """Add tokens: features [N, n], targets [N, d], weights [N] (1 if None).

        Products are in the features' precision, sums in float64.
        """
        weighted = features if weights is None else features * weights[:, None]
        add_lower(self.lower, features, weighted)
        self.cross += weighted.T @ targets
        self.features += weighted.sum(dim=0)
        self.targets += (targets if weights is None else targets * weights[:, None]).sum(dim=0)
        self.count += len(features)
        self.precision = max(self.precision, torch.finfo(features.dtype).eps)
        self.weight += len(features) if weights is None else weights.sum().item()

    def add_up(self) -> None:
        """Add up the sums over all processes that share the work, in place."""
        processes.add_up([self.lower, self.cross, self.features, self.targets])
        self.weight, self.count = processes.total(self.weight), round(processes.total(self.count))

    @property
    def gram(self) -> Tensor:
        """Return Σ w f fᵀ [n, n], whole."""
        whole = self.lower.tril()
        whole += self.lower.tril(-1).T
        return whole

    def centred(self) -> "LeastSquares":
        """Return the problem of W alone, with the best constant c for each W; the same problem if no token has weight.

        If all features are constant but for rounding, as when one token has all the weight, they are set to zero.
        """
        if not self.weight:
            return self
        mean = self.features / self.weight
        lower, cross = self.lower - torch.outer(mean, self.features), self.cross - torch.outer(mean, self.targets)
        if lower.diagonal().sum() <= CENTRING_ROUNDING * self.precision * self.lower.diagonal().sum():
            lower, cross = torch.zeros_like(lower), torch.zeros_like(cross)
        nothing = torch.zeros_like(self.features), torch.zeros_like(self.targets)
        return replace(self, lower=lower, cross=cross, features=nothing[0], targets=nothing[1])

    def of(self, columns: Tensor) -> "LeastSquares":
        """Return the problem with only some of the features, given by their sorted indices [k]."""
        lower = self.lower[columns[:, None], columns]
        return replace(self, lower=lower, cross=self.cross[columns], features=self.features[columns])

    def constant(self, weight: Tensor) -> Tensor:
        """Return the best constant c [d] for a matrix W [d, n]."""
        return (self.targets - weight @ self.features) / self.weight

    def explained(self, weight: Tensor, constant: Tensor | None, root: Tensor) -> float:
        """Return Σ w (‖R r‖² − ‖R (r − W f − c)‖²), the error that W and c explain; unlike the error, it needs no Σ w ‖R r‖².

        Args:
            weight: W [d, n] float64. constant: c [d]; 0 without one.
            root: R [d, d].
        """
        moved = root @ weight
        gained = 2 * (moved * (root @ self.cross.T)).sum() - (moved @ self.gram * moved).sum()
        if constant is not None:
            shift = root @ constant
            gained += shift @ (root @ (2 * self.targets - self.weight * constant) - 2 * moved @ self.features)
        return gained.item()

    @property
    def dead(self) -> bool:
        """Tell whether every feature is zero (in a centred problem: constant), so that no weight has an effect."""
        return bool(self.lower.diagonal().sum() <= 0)

    def solve(self, ridge: float, prior: Tensor | None = None) -> tuple[Tensor, float]:
        """Return W [d, n] in float64, zero for features that are zero, and the ridge that was used.

        Args:
            ridge: see `ridged_cholesky`.
            prior: W₀ [d, n] that the ridge draws to; None for 0.

        Raises:
            UserError: for the reasons that `ridged_cholesky` names.
        """
        weight, ridge, _ = self.solve_with_factor(ridge, prior)
        return weight, ridge

    def solve_with_factor(self, ridge: float, prior: Tensor | None) -> tuple[Tensor, float, Tensor]:
        """Solve as `solve` does, and return the Cholesky factor of the ridged Gram matrix, too."""
        # W = W₀ + (C − G W₀ᵀ)ᵀ H⁻¹.
        cross = self.cross if prior is None else self.cross - self.gram @ prior.T
        factor, ridge = ridged_cholesky(self.lower, ridge)
        weight = torch.cholesky_solve(cross, factor).T
        return weight if prior is None else prior + weight, ridge, factor

    def solve_float32(self) -> Tensor:
        """Return W [d, n] as the K-prune authors' code solves it: float32 normal equations, no ridge.

        Raises:
            UserError: the equations or their solution are not finite: a square is too large for float32, or features
                depend on one another, which some LAPACK drivers do not survive.
        """
        gram, cross = self.gram.float(), self.cross.float()
        weight = torch.linalg.lstsq(gram, cross, rcond=0.0).solution.T
        if not all(torch.isfinite(matrix).all() for matrix in (gram, cross, weight)):
            raise UserError(
                "float32 normal equations without a ridge have no finite solution here: use solve='float64'"
            )
        return weight
