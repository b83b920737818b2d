"""One pass over the teacher: what its answer would feel of a change at every block's output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.models import ModelView
from kprune.models.masks import caught, gradients
from kprune.objectives import Objective
from kprune.solve.least_squares import ridged_cholesky
from kprune.streams import CalibrationState


@dataclass
class OutputFisher:
    """The Fisher of the tempered KL with respect to one block's output projection, factored as A ⊗ S: all but A.

    g_t is the gradient of a root of the Fisher (`Objective.fisher_roots`) at the projection's output for token t.

    Attributes:
        covariance: S = E_x Σ_t g_t g_tᵀ, [d, d] float64.
        energies: a_t = ‖g_t‖² per calibration batch, [B, T]; zero at padding.
        energy: Σ a_t over all tokens, `tokens` of them (0 for a block without units).
    """

    covariance: Tensor
    energies: list[Tensor]
    energy: float = 0.0
    tokens: int = 0

    def token_weights(self, floor: float) -> list[Tensor]:
        """Return a_t over its mean over all tokens, plus a floor, per batch [B, T]; all ones if no token has energy."""
        if not self.energy:
            return [torch.ones_like(e) for e in self.energies]
        mean = self.energy / self.tokens
        return [e / mean + floor for e in self.energies]


@torch.no_grad()
def measure_fisher(
    view: ModelView, states: Sequence[CalibrationState], objective: Objective, temperature: float
) -> list[OutputFisher]:
    """Measure the Fisher of every block, from one forward pass and a backward pass per root, into activations alone.

    Args:
        states: at the input of the first block.

    Returns:
        per block, S and a number per token; the features are not kept.
    """
    d = states[0].teacher.shape[-1]
    fishers = [OutputFisher(torch.zeros(d, d, dtype=torch.float64, device=view.device), []) for _ in view.blocks]
    present = [fisher for fisher, block in zip(fishers, view.blocks, strict=True) if block.units]
    examples = sum(len(state.real) for state in states)
    for state in states:
        real = state.real
        for fisher in fishers:
            fisher.energies.append(torch.zeros_like(real, dtype=state.teacher.dtype))
        for fisher, per_root in zip(present, output_gradients(view, state, objective, temperature), strict=True):
            for g in per_root:
                fisher.energies[-1] += g.square().sum(dim=-1) * real
                fisher.covariance += (g[real].T @ g[real]).double() / examples
            fisher.energy += fisher.energies[-1][real].sum().item()
            fisher.tokens += int(real.sum())
    return fishers


def output_gradients(
    view: ModelView, state: CalibrationState, objective: Objective, temperature: float
) -> list[tuple[Tensor, ...]]:
    """Return a gradient [B, T, d] per root of the Fisher, for every block with units."""
    with torch.enable_grad(), caught(view.blocks, "output") as outputs:
        logits = objective.read(view.run(0, state.teacher, state.context, state.batch), state.batch["attention_mask"])
        roots = [root.sum() for root in objective.fisher_roots(logits, temperature, state.keys)]
    return gradients(roots, outputs)


def metric_root(covariance: Tensor, ridge: float) -> Tensor:
    """Return R [d, d] with RᵀR = S + ridge · mean(diag S) · I; I alone if S is zero, and nothing is felt of this output.

    S has no more rank than roots and tokens: a ridge too small for it is raised, see `ridged_cholesky`.
    """
    return ridged_cholesky(covariance, ridge)[0].T
