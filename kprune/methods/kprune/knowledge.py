"""Knowledge measurement: what the model would lose with each head and neuron (K-prune paper, section 3.2)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kprune.data import per_example
from kprune.errors import UserError
from kprune.models import Block, ModelView
from kprune.models.masks import features_and_gradients, mask_gradients
from kprune.models.surgery import output_weight
from kprune.objectives import Objective
from kprune.settings_checks import check_positive, check_settings
from kprune.streams import CalibrationState


@dataclass(frozen=True)
class KnowledgeSettings:
    """How knowledge is measured.

    The defaults follow the paper, except that K_rep is a mean over tokens and hidden dimensions, as in its authors' code.
    `predictive="fisher"` is this project's; the other values are the authors'.

    Attributes:
        temperature: γ of eq. 4, above 0.
        predictive: "divergence" squares the gradient of the divergence (eq. 4), which is zero as long as the student equals the
            teacher; "fisher" takes the Fisher of the divergence, which is not zero then (`Objective.fisher_roots`).
        kl: direction of the KL: KL(student ‖ teacher) (eq. 4) or KL(teacher ‖ student).
        gradient: square the gradient of each example, or of the mean over each batch.
        head: score a head as a whole, or as the mean over its dimensions without their cross terms.
    """

    temperature: float = 2.0
    predictive: Literal["divergence", "fisher"] = "divergence"
    kl: Literal["student_teacher", "teacher_student"] = "student_teacher"
    gradient: Literal["example", "batch"] = "example"
    head: Literal["whole", "mean_of_dimensions"] = "whole"

    def __post_init__(self) -> None:
        check_settings(self)
        check_positive(temperature=self.temperature)


@dataclass
class Knowledge:
    """K_pred and K_rep of every unit of the blocks from `start` up: per block, [units] in float64."""

    predictive: list[Tensor]
    representational: list[Tensor]

    def without_lowest(self) -> "Knowledge":
        """Return the knowledge of all blocks but the lowest."""
        return Knowledge(self.predictive[1:], self.representational[1:])


@torch.no_grad()
def measure(
    view: ModelView,
    start: int,
    states: Sequence[CalibrationState],
    teacher: Iterable[Tensor] | None,
    objective: Objective,
    settings: KnowledgeSettings,
) -> Knowledge:
    """Measure the knowledge of all units of the blocks from `start` up, in one forward and backward pass from there.

    `K_pred_i = 1/|D| Σ_x ½ (∂KL(x; m)/∂m_i)²` at m = 1, KL being the divergence (eq. 4) and its Fisher in place of the Hessian: a
    mask multiplies a unit's features f, so the derivative is `Σ f ∂KL/∂f` over the unit's features and the tokens.
    `K_rep_i = 1/|D| Σ_x ‖W_i f_i(X_S)‖_F²` (eq. 5), from the second moments of the features. It is divided by the tokens
    of a mean example and by the hidden size, as in the authors' code. This factor is the same for all units of a task and
    model, so it only changes the unit of λ. Without it, λ would have to be smaller for tasks with longer examples.

    Args:
        states: at the input of block `start`.
        teacher: the teacher's logits, per state; None if the student still equals the teacher: then the gradient of the KL is zero
            but for rounding, and K_pred is set to zero without a backward pass.

    Raises:
        UserError: the knowledge of a unit is not finite.
    """
    blocks = view.blocks[start:]
    predictive = [torch.zeros(s.units, dtype=torch.float64, device=view.device) for s in blocks]
    moments = [torch.zeros(s.units, s.width, s.width, dtype=torch.float64, device=view.device) for s in blocks]
    examples = tokens = 0
    targets: Iterable[Tensor | None] = [None] * len(states) if teacher is None else teacher
    for state, target in zip(states, targets, strict=True):

        def losses(output: Any, state: CalibrationState = state, target: Tensor | None = target) -> list[Tensor]:
            if target is None:
                return []
            logits = objective.answers(output, state.batch)
            if settings.predictive == "fisher":
                return [root.sum() for root in objective.fisher_roots(logits, settings.temperature, state.keys)]
            pair = (logits, target) if settings.kl == "student_teacher" else (target, logits)
            return [objective.divergence(*pair, settings.temperature).sum()]

        pairs = features_and_gradients(view, start, state.student, state.context, state.batch, losses)
        real = state.real
        for block, (f, per_loss), k, m in zip(blocks, pairs, predictive, moments, strict=True):
            for g in per_loss:
                k += _squared(per_example(mask_gradients(f, g, block.width), state.batch), settings)
            m += _second_moments(f[real], block.width)
        examples += state.examples
        tokens += int(real.sum())
    knowledge = Knowledge(
        [k / (2 * examples) for k in predictive],
        [_output_energy(s, m, settings) / tokens for s, m in zip(blocks, moments, strict=True)],
    )
    for block, *both in zip(blocks, knowledge.predictive, knowledge.representational, strict=True):
        if not torch.isfinite(torch.cat(both)).all():
            raise UserError(
                f"the knowledge of the {block.kind} of layer {block.layer} is not finite: check the checkpoint's "
                "weights for values that overflow"
            )
    return knowledge


def _squared(gradients: Tensor, settings: KnowledgeSettings) -> Tensor:
    """Return the sum of squared mask gradients over a batch, [units], from `mask_gradients` [B, units, width]."""
    if settings.gradient == "batch":
        gradients = gradients.mean(dim=0, keepdim=True)
    if settings.head == "mean_of_dimensions":
        return gradients.square().mean(dim=-1).sum(dim=0)
    return gradients.sum(dim=-1).square().sum(dim=0)


def _second_moments(features: Tensor, width: int) -> Tensor:
    """Return Σ_t f_i f_iᵀ of every unit: [units, width, width], from features [N, units * width]."""
    if width == 1:
        return features.square().sum(dim=0)[:, None, None].double()
    per_unit = features.unflatten(-1, (-1, width)).transpose(0, 1)
    return (per_unit.mT @ per_unit).double()


def _output_energy(block: Block, moments: Tensor, settings: KnowledgeSettings) -> Tensor:
    """Return Σ_t ‖W_i f_i‖² of every unit, a mean over the hidden dimensions: [units]."""
    if block.units == 0:
        return moments.new_zeros(0)
    weight = output_weight(block).double().unflatten(-1, (-1, block.width)).transpose(0, 1)
    if settings.head == "mean_of_dimensions":
        return (moments.diagonal(dim1=1, dim2=2) * weight.square().mean(dim=1)).mean(dim=-1)
    return (weight @ moments * weight).mean(dim=1).sum(dim=1)
