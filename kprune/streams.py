"""The calibration set on its way up: where student and teacher stand, block by block.

Nothing here grows with the number of blocks: of every token, one hidden state of the student and one of the teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.models import Context, ModelView
from kprune.models.view import on_device
from kprune.objectives import Objective


@dataclass
class CalibrationState:
    """A calibration batch on its way up.

    Attributes:
        batch: as it went into the model.
        context: keyword arguments of the layers.
        student, teacher: inputs of the block at hand, [B, T, d].
        target: what the student's block is asked to add, if that is not all that the teacher is ahead by.
    """

    batch: dict[str, Tensor]
    context: Context
    student: Tensor
    teacher: Tensor
    target: Tensor | None = None

    def asked(self) -> Tensor:
        """Return what the student's block is asked to add, [B, T, d], with the teacher before a norm that comes last."""
        return self.teacher - self.student if self.target is None else self.target

    @property
    def real(self) -> Tensor:
        """Return [B, T] bool, False at padding."""
        return self.batch["attention_mask"].bool()

    @property
    def keys(self) -> Tensor:
        """Return an integer per example [B], from its own tokens alone, so that batch and padding do not matter."""
        ids = self.batch["input_ids"] * self.batch["attention_mask"]
        return (ids * torch.arange(1, ids.shape[1] + 1, device=ids.device)).sum(dim=1)

    def rows(self, which: slice) -> "CalibrationState":
        """Return some of the batch's examples, where they stand now."""
        batch = {key: value[which] for key, value in self.batch.items()}
        return CalibrationState(batch, self.context.rows(which), self.student[which], self.teacher[which])


@torch.no_grad()
def calibration_states(view: ModelView, batches: Sequence[dict[str, Tensor]]) -> list[CalibrationState]:
    """Return every batch at the input of the first block."""
    states = []
    for batch in batches:
        batch = on_device(batch, view.device)
        x, context = view.enter(batch)
        states.append(CalibrationState(batch, context, x, x))
    return states


@torch.no_grad()
def teacher_logits(view: ModelView, states: Sequence[CalibrationState], objective: Objective) -> list[Tensor]:
    """Return what the objective reads of the whole, unpruned model, for states at the input of its first block."""
    return [
        objective.read(view.run(0, state.teacher, state.context, state.batch), state.batch["attention_mask"])
        for state in states
    ]
