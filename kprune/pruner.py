"""What every pruning method takes and gives back."""

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kprune.budget import Budget
from kprune.checkpoint.card import python_card
from kprune.checkpoint.classes import become_pruned
from kprune.checkpoint.saving import save
from kprune.errors import UserError
from kprune.objectives import Objective

Example = dict[str, Any]
"""One tokenised example: `input_ids` and, where the model reads them, `token_type_ids` (lists of int, unpadded), and
`label` (int, float, or (start, end) for spans) where labels are handed out."""


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """Pad examples on the right to the longest of them.

    Returns tensors [B, T] `input_ids`, `attention_mask` and, where present, `token_type_ids`; `labels` [B] or [B, 2]
    where the examples carry a label.
    """
    length = max(len(example["input_ids"]) for example in examples)
    batch = {}
    for key, filler in (("input_ids", pad_token_id), ("token_type_ids", 0)):
        if key in examples[0]:
            batch[key] = torch.tensor([list(e[key]) + [filler] * (length - len(e[key])) for e in examples])
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch["attention_mask"] = (torch.arange(length) < lengths[:, None]).long()
    if "label" in examples[0]:
        batch["labels"] = torch.tensor([example["label"] for example in examples])
    return batch


def by_length_and_tokens(example: Example) -> tuple[int, list[int], list[int]]:
    return len(example["input_ids"]), list(example["input_ids"]), list(example.get("token_type_ids", ()))


@dataclass(frozen=True)
class CalibrationSet:
    """Tokenised examples from the training set, in the order drawn. Labels are withheld unless a method needs them."""

    examples: Sequence[Example]
    batch_size: int
    pad_token_id: int

    def __post_init__(self):
        if not self.examples:
            raise UserError("the calibration set is empty: raise calibration.tokens or check calibration.file")
        if any(len(example["input_ids"]) == 0 for example in self.examples):
            raise UserError("the calibration set has an example without tokens: remove it from the data")

    @property
    def tokens(self) -> int:
        return sum(len(example["input_ids"]) for example in self.examples)

    def batches(self, by_length: bool = True) -> list[dict[str, Tensor]]:
        """Padded batches on the CPU; sorted by length, so that little is padded, or in the order drawn."""
        examples = list(self.examples)
        if by_length:
            examples.sort(key=lambda example: len(example["input_ids"]))
        starts = range(0, len(examples), self.batch_size)
        return [collate(examples[start : start + self.batch_size], self.pad_token_id) for start in starts]

    def steps(self, tokens: int) -> list[dict[str, Tensor]]:
        """Padded batches of at most so many tokens, padding counted, of one example at least, whatever `batch_size` is.

        In an order that is the examples' own, by length first, so that it does not matter in which they were drawn.
        """
        batches: list[list[Example]] = [[]]
        for example in sorted(self.examples, key=by_length_and_tokens):
            if batches[-1] and len(example["input_ids"]) * (len(batches[-1]) + 1) > tokens:
                batches.append([])
            batches[-1].append(example)
        return [collate(batch, self.pad_token_id) for batch in batches]


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


class Clock:
    """Wall-clock seconds by stage, added up."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[stage] += time.perf_counter() - start

    def shared(self, data: PruningData, key: Hashable, compute: "Callable[[Clock], Any]") -> Any:
        """`compute(clock)`, done once for `data` and kept there under `key`; the stages that it tells its clock count in
        full every time.

        The value must not depend on the budget, and whoever takes it must not change it.
        """
        if key not in data.shared:
            own = Clock()
            data.shared[key] = compute(own), own.seconds
        value, seconds = data.shared[key]
        for stage, taken in seconds.items():
            self.seconds[stage] += taken
        return value


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weights ask for no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def frozen_view(model: nn.Module) -> nn.Module:
    """As `frozen_copy`, but with the model's own weights in memory: for what is only read."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared | {id(b): b for b in model.buffers()}).eval()


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
