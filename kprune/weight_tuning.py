"""KPWT: knowledge-preserving weight tuning, a least squares for one sublayer's output projection."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.errors import UserError


@dataclass
class LeastSquares:
    """`argmin_W ‖R − F Wᵀ‖_F²` from sums over tokens; never holds the features F of all tokens.

    gram: FᵀF [n, n]; cross: FᵀR [n, d], both float64.
    """

    gram: Tensor
    cross: Tensor

    @classmethod
    def empty(cls, features: int, hidden_size: int, device) -> "LeastSquares":
        zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64, device=device)  # noqa: E731
        return cls(zeros(features, features), zeros(features, hidden_size))

    def add(self, features: Tensor, residual: Tensor) -> None:
        """Add tokens: features [N, n], residual [N, d]. Products in the features' precision, sums in float64."""
        self.gram += (features.T @ features).double()
        self.cross += (features.T @ residual).double()

    def solve(self, ridge: float) -> tuple[Tensor, float]:
        """W [d, n] in float64, with `ridge` times the mean of the Gram matrix's diagonal added to the diagonal.

        Where the matrix is not positive definite in spite of that, the ridge is raised tenfold, up to 1e-2.

        Returns:
            W, and the ridge that was used (relative).

        Raises:
            UserError: no ridge up to 1e-2 makes the system solvable (NaN or infinite features).
        """
        scale = self.gram.diagonal().mean()
        identity = torch.eye(len(self.gram), dtype=torch.float64, device=self.gram.device)
        while ridge <= 1e-2:
            factor, failed = torch.linalg.cholesky_ex(self.gram + ridge * scale * identity)
            if not failed and torch.isfinite(factor).all():
                return torch.cholesky_solve(self.cross, factor).T, ridge
            ridge = max(10 * ridge, 1e-12)
        raise UserError(
            "weight tuning has no solution: the features hold NaN or infinity; check the checkpoint's weights"
        )

    def solve_float32(self) -> Tensor:
        """W [d, n] as the K-prune authors' code solves it: float32 normal equations, no ridge."""
        return torch.linalg.lstsq(self.gram.float(), self.cross.float(), rcond=0.0).solution.T
