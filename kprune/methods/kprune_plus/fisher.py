"""One pass over the teacher: what its answer would feel of a change at every sublayer's output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.models.adapter import Adapter
from kprune.models.masks import caught, gradients
from kprune.objectives import Objective
from kprune.solve.least_squares import LeastSquares, ridged_cholesky
from kprune.streams import CalibrationState


@dataclass
class OutputFisher:
    """The Fisher of the tempered KL with respect to one sublayer's output projection, factored as A ⊗ S: all but A.

    g_t is the gradient of a root of the Fisher (`Objective.fisher_roots`) at the projection's output for token t.

    Attributes:
        covariance: S = E_x Σ_t g_t g_tᵀ, [d, d] float64.
        energies: a_t = ‖g_t‖² per calibration batch, [B, T]; zero at padding.
        energy: Σ a_t over all tokens, `tokens` of them (0 for a sublayer without units).
    """

    covariance: Tensor
    energies: list[Tensor]
    energy: float
    tokens: int

    def token_weights(self, floor: float) -> list[Tensor]:
        """a_t over its mean over all tokens, plus a floor, per batch [B, T]; all ones where no token has energy."""
        if not self.energy:
            return [torch.ones_like(e) for e in self.energies]
        mean = self.energy / self.tokens
        return [e / mean + floor for e in self.energies]


@torch.no_grad()
def measure_fisher(
    adapter: Adapter, states: Sequence[CalibrationState], objective: Objective, temperature: float
) -> tuple[list[OutputFisher], list[LeastSquares]]:
    """The Fisher of every sublayer, from one forward pass and a backward pass per root, into activations alone.

    Args:
        states: at the input of the first sublayer.

    Returns:
        per sublayer, its Fisher but for A; and A as sums without targets, Σ a_t f_t f_tᵀ and Σ a_t f_t of the projection's
        inputs. These are large: a gigabyte in all for BERT-base.
    """
    device = adapter.device
    squares = [LeastSquares.empty(s.units * s.unit_size, 0, device) for s in adapter.sublayers]
    covariances = [
        torch.zeros(s.hidden_size, s.hidden_size, dtype=torch.float64, device=device) for s in adapter.sublayers
    ]
    energies: list[list[Tensor]] = [[] for _ in adapter.sublayers]
    present = [index for index, sublayer in enumerate(adapter.sublayers) if sublayer.units]
    examples = sum(len(state.real) for state in states)
    for state in states:
        real = state.real
        features, output_gradients = features_and_output_gradients(adapter, state, objective, temperature)
        for of_sublayer in energies:
            of_sublayer.append(torch.zeros_like(real, dtype=state.teacher.dtype))
        for index, f, per_root in zip(present, features, output_gradients, strict=True):
            for g in per_root:
                energies[index][-1] += g.square().sum(dim=-1) * real
                covariances[index] += (g[real].T @ g[real]).double() / examples
            squares[index].add(f[real], f.new_zeros(int(real.sum()), 0), energies[index][-1][real])
    fishers = [
        OutputFisher(covariance, of_sublayer, sums.weight, sums.count)
        for covariance, of_sublayer, sums in zip(covariances, energies, squares, strict=True)
    ]
    return fishers, squares


def features_and_output_gradients(
    adapter: Adapter, state: CalibrationState, objective: Objective, temperature: float
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """For every sublayer with units: features [B, T, n], and a gradient [B, T, d] per root of the Fisher."""
    features: list[Tensor] = []
    sublayers = [sublayer for sublayer in adapter.sublayers if sublayer.units]
    hooks = [s.projection.register_forward_pre_hook(lambda _, f: features.append(f[0].detach())) for s in sublayers]
    mask = state.batch["attention_mask"]
    try:
        with torch.enable_grad(), caught(sublayers, "output") as outputs:
            logits = objective.read(adapter.run(0, state.teacher, state.attention_mask, state.batch), mask)
            roots = [root.sum() for root in objective.fisher_roots(logits, temperature, state.keys)]
    finally:
        for hook in hooks:
            hook.remove()
    return features, gradients(roots, outputs)


def metric_root(covariance: Tensor, ridge: float) -> Tensor:
    """R [d, d] with RᵀR = S + ridge · mean(diag S) · I (all of it I where S is zero: nothing is felt of this output).

    S has no more rank than roots and tokens: a ridge too small for it is raised, see `ridged_cholesky`.
    """
    return ridged_cholesky(covariance, ridge)[0].T
