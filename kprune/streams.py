"""The calibration set on its way up through student and teacher, and held out from the fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kprune.data import CalibrationSet, Example
from kprune.errors import UserError
from kprune.models.adapter import Adapter, model_inputs, on_device
from kprune.models.copies import frozen_view
from kprune.objectives import Objective


@dataclass
class CalibrationState:
    """A calibration batch on its way up: where student and teacher stand.

    student, teacher: inputs of the sublayer at hand, [B, T, d].
    """

    batch: dict[str, Tensor]
    attention_mask: Tensor | None
    student: Tensor
    teacher: Tensor

    @property
    def real(self) -> Tensor:
        """[B, T] bool, False at padding."""
        return self.batch["attention_mask"].bool()

    @property
    def keys(self) -> Tensor:
        """An integer per example [B], from its own tokens alone, so that batch and padding do not matter."""
        ids = self.batch["input_ids"] * self.batch["attention_mask"]
        return (ids * torch.arange(1, ids.shape[1] + 1, device=ids.device)).sum(dim=1)

    def rows(self, which: slice) -> "CalibrationState":
        """Some of the batch's examples, where they stand now."""
        mask = None if self.attention_mask is None else self.attention_mask[which]
        batch = {key: value[which] for key, value in self.batch.items()}
        return CalibrationState(batch, mask, self.student[which], self.teacher[which])

    def pieces(self, tokens: int) -> list["CalibrationState"]:
        """The batch in parts of at most so many tokens, padding counted, of one example at least."""
        size = max(tokens // self.student.shape[1], 1)
        return [self.rows(slice(start, start + size)) for start in range(0, len(self.student), size)]


@torch.no_grad()
def calibration_states(adapter: Adapter, batches: Sequence[dict[str, Tensor]]) -> list[CalibrationState]:
    """Every batch at the input of the first sublayer."""
    states = []
    for batch in batches:
        batch = on_device(batch, adapter.device)
        hidden, attention_mask = adapter.embed(batch)
        states.append(CalibrationState(batch, attention_mask, hidden, hidden))
    return states


@torch.no_grad()
def teacher_logits(adapter: Adapter, states: Sequence[CalibrationState], objective: Objective) -> list[Tensor]:
    """What the objective reads of the whole, unpruned model, for states at the input of its first sublayer."""
    return [
        objective.read(adapter.run(0, s.teacher, s.attention_mask, s.batch), s.batch["attention_mask"]) for s in states
    ]


def split(calibration: CalibrationSet) -> tuple[CalibrationSet, CalibrationSet]:
    """Nine tenths of the different examples to fit, one tenth held out: every tenth as drawn.

    Examples are drawn with replacement; all copies of one fall on the same side.

    Raises:
        UserError: there is but one example.
    """
    numbers: dict[tuple[int, ...], int] = {}
    sides: tuple[list[Example], list[Example]] = [], []
    for example in calibration.examples:
        number = numbers.setdefault(tuple(example["input_ids"]), len(numbers))
        sides[number % 10 == 0].append(example)
    if len(numbers) == 1:
        raise UserError(
            "λ is chosen on examples that are held out, and there is one example: give more, or one λ (method.lambdas)"
        )
    fit, held_out = sides
    return replace(calibration, examples=fit), replace(calibration, examples=held_out)


@torch.no_grad()
def held_out_divergence(
    student: nn.Module, teacher: nn.Module, objective: Objective, calibration: CalibrationSet, temperature: float
) -> float:
    """Mean K_pred (eq. 4) between two models over examples, without dropout."""
    total = 0.0
    models = [frozen_view(model) for model in (student, teacher)]
    for batch in calibration.batches():
        batch = on_device(batch, teacher.device)
        s, t = (objective.read(model(**model_inputs(batch)), batch["attention_mask"]) for model in models)
        total += objective.divergence(s, t, temperature).sum().item()
    return total / len(calibration.examples)
