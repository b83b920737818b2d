"""The Fisher of every block's output, from one pass over the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.memory import give_back
from kprune.models import ModelView
from kprune.models.masks import caught
from kprune.models.masks import gradients as gradients_of
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
        features: ‖f_t‖² of the projection's input per calibration batch, [B, T]; zero at padding.
        energy: Σ a_t over all tokens, `tokens` of them (0 for a block without units).
    """

    covariance: Tensor
    energies: list[Tensor]
    features: list[Tensor]
    energy: float = 0.0
    tokens: int = 0

    def token_weights(self, floor: float, clip: float | None) -> list[Tensor]:
        """Return a_t over its mean over all tokens, plus a floor, per batch [B, T]; all ones if no token has energy.

        Args:
            clip: as of `factors`.
        """
        if not self.energy:
            return [torch.ones_like(e) for e in self.energies]
        mean = self.energy / self.tokens
        return [(e / mean + floor) * f for e, f in zip(self.energies, self.factors(clip), strict=True)]

    def clipped_energies(self, clip: float | None) -> list[Tensor]:
        """Return a_t per batch [B, T], with `clip` as of `factors`."""
        return [e * f for e, f in zip(self.energies, self.factors(clip), strict=True)]

    def factors(self, clip: float | None) -> list[Tensor | float]:
        """Return what a token's weight is multiplied by, per batch [B, T].

        Args:
            clip: the largest energy of features that counts in full, over the median of all tokens; None for any. A few
                tokens of a decoder, its attention sinks, have 10⁵ times the median: a Gram matrix would know them alone.
        """
        if clip is None or not self.energy:
            return [1.0] * len(self.energies)
        most = clip * torch.cat([f[f > 0] for f in self.features]).median()
        return [(most / f).clamp(max=1.0) for f in self.features]


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
    fishers = [OutputFisher(torch.zeros(d, d, dtype=torch.float64, device=view.device), [], []) for _ in view.blocks]
    present = [fisher for fisher, block in zip(fishers, view.blocks, strict=True) if block.units]
    examples = sum(len(state.real) for state in states)
    for state in states:
        real = state.real
        for fisher in fishers:
            fisher.energies.append(torch.zeros_like(real, dtype=state.teacher.dtype))
            fisher.features.append(torch.zeros_like(real, dtype=state.teacher.dtype))
        features, gradients = output_gradients(view, state, objective, temperature)
        for fisher, energy, per_root in zip(present, features, gradients, strict=True):
            fisher.features[-1] += energy * real
            for g in per_root:
                fisher.energies[-1] += g.square().sum(dim=-1) * real
                fisher.covariance += (g[real].T @ g[real]).double() / examples
            fisher.energy += fisher.energies[-1][real].sum().item()
            fisher.tokens += int(real.sum())
        del features, gradients
        give_back()
    return fishers


def output_gradients(
    view: ModelView, state: CalibrationState, objective: Objective, temperature: float
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """Return, for every block with units, ‖f_t‖² [B, T] and a gradient [B, T, d] per root of the Fisher."""
    energies: list[Tensor] = []
    blocks = [block for block in view.blocks if block.units]
    hooks = [
        block.output.register_forward_pre_hook(
            lambda _, inputs: energies.append(inputs[0].detach().square().sum(dim=-1))
        )
        for block in blocks
    ]
    try:
        with torch.enable_grad(), caught(blocks, "output") as outputs:
            read = view.run(0, state.teacher, state.context, state.batch)
            logits = objective.read(read, state.batch["attention_mask"])
            roots = [root.sum() for root in objective.fisher_roots(logits, temperature, state.keys)]
    finally:
        for hook in hooks:
            hook.remove()
    return energies, gradients_of(roots, outputs)


def metric_root(covariance: Tensor, ridge: float) -> Tensor:
    """Return R [d, d] with RᵀR = S + ridge · mean(diag S) · I; I alone if S is zero, and nothing is felt of this output.

    S has no more rank than roots and tokens: a ridge too small for it is raised, see `ridged_cholesky`.
    """
    return ridged_cholesky(covariance, ridge)[0].T
