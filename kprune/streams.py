"""The hidden states of the calibration set in student and teacher, moved up block by block.

Nothing here grows with the number of blocks: of every token, one input of a block is kept for the student and one for the teacher.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kprune import processes
from kprune.data import OF_EXAMPLES, part_of, per_example, rows_of, size_of
from kprune.errors import UserError
from kprune.models import Context, ModelView
from kprune.models.inputs import on_device
from kprune.objectives import Objective
from kprune.storage import Device, Storage

ON_DEVICE = Device()
"""The storage that leaves tensors where they are worked on."""


class CalibrationState:
    """A calibration batch, and its hidden states at the input of a block. They lie in a storage while nobody reads them.

    Attributes:
        batch: what the model reads, as `collate` makes it: rows [B, T], and which examples they belong to.
        context: keyword arguments of the layers.
        number: index of the batch among all, from 0; if several processes share the work, each has its own examples of it.
    """

    def __init__(
        self,
        batch: dict[str, Tensor],
        context: Context,
        student: Tensor,
        teacher: Tensor,
        storage: Storage = ON_DEVICE,
        number: int = 0,
    ):
        self.batch, self.context, self._storage, self.number = batch, context, storage, number
        self.student, self.teacher, self.target = student, teacher, None

    @property
    def student(self) -> Tensor:
        """Return the student's input of the block at hand, [B, T, d]; [B, T, 2d] if it is the second of a parallel layer."""
        return self._storage.read(self._student)

    @student.setter
    def student(self, value: Tensor) -> None:
        self._student = self._storage.keep(value)

    @property
    def teacher(self) -> Tensor:
        """Return the teacher's input of the block at hand, of the shape of the student's."""
        return self._storage.read(self._teacher)

    @teacher.setter
    def teacher(self, value: Tensor) -> None:
        self._teacher = self._storage.keep(value)

    @property
    def target(self) -> Tensor | None:
        """Return the target that was set for the update of the student's block, [B, T, d]; None for teacher − student."""
        return None if self._target is None else self._storage.read(self._target)

    @target.setter
    def target(self, value: Tensor | None) -> None:
        self._target = None if value is None else self._storage.keep(value)

    def update_target(self) -> Tensor:
        """Return the target of the update of the student's block: [B, T, d].

        It is `target` or, if that is None, teacher − student; the teacher then is at X_T + Sub_T(X_T), before `Block.norm_after`.
        """
        target = self.target
        return self.teacher - self.student if target is None else target

    @property
    def device(self) -> torch.device:
        """Return where the batch is worked on."""
        return self.batch["attention_mask"].device

    @property
    def stays(self) -> bool:
        """Tell whether the hidden states stay where they are worked on."""
        return isinstance(self._storage, Device)

    @property
    def real(self) -> Tensor:
        """Return [B, T] bool, False at padding."""
        return self.batch["attention_mask"].bool()

    @property
    def examples(self) -> int:
        """Return the number of examples."""
        return size_of(self.batch)

    @property
    def keys(self) -> Tensor:
        """Return an integer per example, from its own tokens alone, so that batch and padding do not matter."""
        ids = self.batch["input_ids"] * self.batch["attention_mask"]
        return per_example((ids * torch.arange(1, ids.shape[1] + 1, device=ids.device)).sum(dim=1), self.batch)

    def some_examples(self, which: slice) -> "CalibrationState":
        """Return the state of some of the batch's examples, each with all of its rows."""
        return self._part(part_of(self.batch, which), rows_of(self.batch, which))

    def some_rows(self, rows: slice | Tensor) -> "CalibrationState":
        """Return the state of some of the batch's rows, given by their numbers or as a slice, without labels and `choices`."""
        return self._part({name: value[rows] for name, value in self.batch.items() if name not in OF_EXAMPLES}, rows)

    def _part(self, batch: dict[str, Tensor], rows: slice | Tensor) -> "CalibrationState":
        part = CalibrationState(batch, self.context.rows(rows), self.student[rows], self.teacher[rows], self._storage)
        target = self.target
        part.target = None if target is None else target[rows]
        return part


@torch.no_grad()
def calibration_states(
    view: ModelView, batches: Sequence[dict[str, Tensor]], storage: Storage = ON_DEVICE
) -> list[CalibrationState]:
    """Return the state of every batch at the input of the first block; with several processes, of this process's examples alone.

    Raises:
        UserError: there are more processes than examples.
    """
    states, before = [], 0
    with view.ends_at_work():
        for number, whole in enumerate(batches):
            batch = on_device(processes.own_rows(whole, before), view.device)
            before += size_of(whole)
            if size_of(batch):
                x, context = view.embed(batch)
                states.append(CalibrationState(batch, context, x, x, storage, number))
    if before < processes.count():
        raise UserError(f"there are {before} examples for {processes.count()} processes: start fewer")
    return states


class TeacherLogits(Iterable[Tensor]):
    """The teacher's logits (`Objective.answers`) of calibration states, one by one.

    The states must be at the input of the first block when this object is made. For each state, the logits are kept or, if it is
    smaller, the last hidden state, from which the logits are computed again in each iteration.
    """

    def __init__(self, view: ModelView, states: Sequence[CalibrationState], objective: Objective):
        self.view, self.objective = view, objective
        self._kept = [self._smaller(state) for state in states]

    @torch.no_grad()
    def __iter__(self) -> Iterator[Tensor]:
        for kept, whole, batch in self._kept:
            yield kept if whole else self._logits(kept, batch)

    @torch.no_grad()
    def _smaller(self, state: CalibrationState) -> tuple[Tensor, bool, dict[str, Tensor]]:
        """Return the logits of a state or its last hidden state, whether it is the logits, and the batch."""
        hidden = state.teacher
        for block in self.view.blocks:
            hidden = block.run(hidden, state.context)
        logits = self._logits(hidden, state.batch)
        whole = logits.numel() <= hidden.numel()
        return logits if whole else hidden, whole, state.batch

    def _logits(self, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return self.objective.answers(self.view.apply_head(hidden, batch), batch)
