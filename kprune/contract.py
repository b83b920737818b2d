"""What every pruning method takes and gives back."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from kprune.budgets.flops import Budget
from kprune.checkpoint.card import python_card
from kprune.checkpoint.classes import become_pruned
from kprune.checkpoint.saving import save
from kprune.clock import Clock
from kprune.data import CalibrationSet, Example
from kprune.errors import UserError
from kprune.objectives import Objective


def _no_training() -> Sequence[Example]:
    raise UserError(
        "this method trains on labelled examples, and calibration batches are all there is: use it with run.py"
    )


@dataclass(frozen=True)
class PruningData:
    """What a method may read of a task, for one model.

    Attributes:
        calibration: for every method.
        training: labelled, tokenised when called; for the retrained methods alone. Raises a UserError where there are none.
        workspace: folder where a long training keeps its state, so that it can go on after an interruption. It belongs to
            this model, task and seed; a method names its files by whatever else they depend on.
        seed: of whatever a method draws at random.
        shared: what methods found out that no budget changes, by key; `Clock.shared` fills and reads it.
    """

    calibration: CalibrationSet
    training: Callable[[], Sequence[Example]] = _no_training
    workspace: Path | None = None
    seed: int = 0
    shared: dict[Hashable, tuple[Any, dict[str, float]]] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a method gives back.

    Attributes:
        model: the pruned model, any module that is called like the dense one.
        kept_heads, kept_neurons: a number per layer, bottom to top (means where they depend on the input).
        kept_units: indices of the kept units per sublayer, bottom to top (MHA then FFN); None where they vary.
        seconds_by_stage: wall-clock seconds, everything the method did accounted for.
        details: what the method wants on record (ridge, threshold, warnings); plain JSON values.
        count_units: where what is computed depends on the input, counts the mean number of units per sublayer over
            batches. FLOPs and kept units are then those of the evaluation inputs. The model itself computes all of its
            units and masks them: it has no latency to measure and no smaller checkpoint to save.
    """

    model: nn.Module
    kept_heads: list[float]
    kept_neurons: list[float]
    kept_units: list[list[int]] | None = None
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    count_units: Callable[[Iterable[dict[str, Tensor]]], list[float]] | None = None

    @classmethod
    def of(cls, model: nn.Module, kept_units: list[list[int]], clock: "Clock", details: dict[str, Any]) -> "Outcome":
        """The outcome of a method that keeps the same units for every input."""
        heads, neurons = ([len(units) for units in kept_units[first::2]] for first in (0, 1))
        model = become_pruned(model.requires_grad_(True))
        return cls(model, heads, neurons, kept_units, dict(clock.seconds), details)

    def save(
        self, folder: str | Path, tokenizer=None, card: str | None = None, format: str = "pruned", onnx: bool = False
    ) -> Path:
        """Write the model to a folder that plain transformers loads, as `kprune.checkpoint.save` has it.

        Args:
            card: text of the model card; without it, one is written from what this outcome knows.

        Raises:
            UserError: the format is unknown, the folder holds something else or can't be written to.
        """
        card = card or python_card(self, format)
        return save(self.model, folder, tokenizer, card, format, self.kept_units, onnx)


class Pruner(Protocol):
    """A pruning method. Its settings are its constructor's plain arguments.

    Attributes:
        needs_labels: the calibration examples carry their labels.
        any_budget: it reads of a budget its `unit_costs` and `limit` alone, and so prunes to a latency as well as to a
            share of FLOPs, and to whole grains.
    """

    name: str
    needs_labels: bool
    any_budget: bool

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        """Prune `model`; the model passed in is left as it was."""
        ...

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """The largest FLOPs reduction this method can do on `model`, in [0, 1]."""
        ...
