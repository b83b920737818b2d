"""What every pruning method takes and gives back. Nothing here touches a disk."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from kprune.budgets import Budget, FlopsBudget
from kprune.clock import Clock
from kprune.data import CalibrationSet, Example
from kprune.errors import OutOfReach, UserError
from kprune.models import ModelView, view_of
from kprune.objectives import OBJECTIVES, Objective
from kprune.plan import Plan
from kprune.precision import PRECISIONS, Precision, full_precision, linear_layers
from kprune.processes import check_alone
from kprune.settings_checks import check_settings
from kprune.solve.uniform import check_uniform
from kprune.target import NOTHING, SPARSITY, Target
from kprune.types import Model

ANY_BUDGET = frozenset({"flops", "parameters", "latency"})
"""The budgets of a method that reads only the costs and the limit of a budget."""
ZEROS = frozenset({SPARSITY})
"""The "budgets" of a method that sets single weights to zero: it takes a sparsity, and no budget."""
MEASURED = {"flops": "FLOPs", "parameters": "parameters", "latency": "time"}
"""What the budgets measure, in words."""
ANY_HEAD = frozenset(OBJECTIVES)
"""The heads of a method that asks only the objective about the head, so that a user's own objective will do, too."""


def _no_training() -> Sequence[Example]:
    raise UserError(
        "this method trains on labelled examples, and calibration batches are all there is: use it with run.py"
    )


@dataclass(frozen=True)
class PruningData:
    """What a method may read of a task, for one model.

    Attributes:
        calibration: for every method.
        training: gives labelled, tokenised examples; for the retrained methods alone. Raises a UserError if there are none.
        workspace: folder where a long training keeps its state, so that it can go on after an interruption. It belongs to
            this model, task and seed; a method names its files by whatever else they depend on.
        seed: of whatever a method draws at random.
        anew: whether to ignore what earlier processes left in the workspace, and to train again.
        precision: of the products of linear layers while a method prunes (`kprune.precision.linear_layers`).
        shared: results of methods that do not depend on the budget, by key; `once` fills and reads it.
    """

    calibration: CalibrationSet
    training: Callable[[], Sequence[Example]] = _no_training
    workspace: Path | None = None
    seed: int = 0
    anew: bool = False
    precision: Precision = "full"
    shared: dict[Hashable, tuple[Any, dict[str, float]]] = field(default_factory=dict)

    def once(self, key: Hashable, clock: Clock, compute: Callable[[Clock], Any]) -> Any:
        """Return `compute(clock)`, done once for these data and kept under `key`.

        The stages of `compute` count on `clock` in full every time. The value must not depend on the budget, and the caller must not
        change it.
        """
        if key not in self.shared:
            own = Clock()
            self.shared[key] = compute(own), own.seconds
        value, seconds = self.shared[key]
        for stage, taken in seconds.items():
            clock.seconds[stage] += taken
        return value


@dataclass(frozen=True)
class Job:
    """One pruning: a dense model, which stays as it is, what its head predicts, data, and what may be left.

    Attributes:
        model: the dense model.
        objective: reads and compares what the model's head predicts.
        data: calibration and training examples.
        asked: what the pruned model may cost or, for a method that sets single weights to zero, the share or the pattern of zeros.
    """

    model: Model
    objective: Objective
    data: PruningData
    asked: Budget | Target

    @property
    def budget(self) -> Budget:
        """Return what the pruned model may cost, for a method that removes units."""
        assert not isinstance(self.asked, Target), "Method.check refuses it"
        return self.asked

    @property
    def sparsity(self) -> Target:
        """Return the share or the pattern of zeros, for a method that sets single weights to zero."""
        assert isinstance(self.asked, Target), "Method.check refuses a budget"
        return self.asked


@dataclass
class Outcome:
    """What a method gives back.

    Attributes:
        model: the pruned model, any module that is called like the dense one.
        plan: what of the dense model is kept.
        seconds_by_stage: wall-clock seconds, everything the method did accounted for.
        details: what the method wants on record (ridge, threshold, warnings); plain JSON values.
        count_units: if what is computed depends on the input, counts the mean number of units per block over batches.
            FLOPs and kept units are then those of the evaluation inputs. The model itself computes all of its units and
            masks them: it has no latency to measure and no smaller checkpoint to save.
    """

    model: Model
    plan: Plan
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    count_units: Callable[[Iterable[dict[str, Tensor]]], list[float]] | None = None

    @classmethod
    def of(cls, view: ModelView, kept: Sequence[Sequence[int]], clock: Clock, details: dict[str, Any]) -> "Outcome":
        """Return the outcome of a method that keeps the same units, indices per block, for every input."""
        return cls(view.model.requires_grad_(True), Plan.of(view, kept), dict(clock.seconds), details)

    @property
    def kept_heads(self) -> list[float]:
        """Return the number of heads that each layer keeps, bottom to top."""
        return self.plan.per_layer("heads")

    @property
    def kept_neurons(self) -> list[float]:
        """Return the number of neurons that each layer keeps, bottom to top."""
        return self.plan.per_layer("neurons")


class Method(ABC):
    """A pruning method. Its settings are its constructor's plain arguments.

    Attributes:
        name: as in `method=` and in results.
        needs: "labels" if it reads the labels of the calibration examples; "training" if it trains on the whole training set.
        budgets: measures that it prunes to: `ANY_BUDGET` if it reads a budget's costs and limit alone, and so rounds
            widths to whole grains, too; `ZEROS` if it sets single weights to zero.
        heads: names of the objectives whose models it prunes.
        uniform: whether it keeps all layers alike if a budget asks for it.
        one_model: whether what comes out is the same model for every input, which has weights of its own.
        several_processes: whether several processes can share its work (`kprune.processes.together`).
        version: raised whenever the same settings give another result; part of a cell's identity.
        passes: whether it runs the model on the calibration set.
    """

    name: str
    needs: ClassVar[frozenset[str]] = frozenset()
    budgets: ClassVar[frozenset[str]] = ANY_BUDGET
    heads: ClassVar[frozenset[str]] = ANY_HEAD
    uniform: ClassVar[bool] = False
    one_model: ClassVar[bool] = True
    several_processes: ClassVar[bool] = False
    version: ClassVar[int] = 1
    passes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check that each setting has a value of its type; a method whose settings have bounds checks these, too.

        Raises:
            UserError: a setting has a value of another type, or out of its bounds.
        """
        check_settings(self)

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Make `prune` run in the job's precision, so that no method can forget to."""
        super().__init_subclass__(**arguments)
        if "prune" in vars(cls):
            cls.prune = _in_its_precision(cls.prune)  # type: ignore[method-assign, assignment]  # each subclass's own, wrapped

    @abstractmethod
    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model. It runs in the precision that the job's data say, whatever the caller has set.

        Raises:
            UserError: the model's family is not supported, or something measured is not finite.
        """

    def reach(self, model: Model, sequence_length: float) -> float:
        """Return the largest FLOPs reduction that this method can do on a model, in [0, 1]."""
        return 1.0

    def check_measure(self, measure: str) -> None:
        """Check that the method prunes to what a budget measures, or to zeros among the weights.

        Raises:
            UserError: it does not.
        """
        if measure in self.budgets:
            return
        if self.budgets == {NOTHING}:
            raise UserError(
                f"method {self.name} removes nothing: ask for a share of 0 of the FLOPs in run.py, or use kprune"
            )
        if measure == NOTHING:
            raise UserError(
                f"flops_reduction=0 is outside (0, 1), and method {self.name} prunes: ask for a share of FLOPs, or use none"
            )
        if measure == SPARSITY:
            raise UserError(
                f"method {self.name} removes whole heads and neurons, not single weights: ask for a share of FLOPs, or use "
                "wanda or sparsegpt"
            )
        if self.budgets == ZEROS:
            raise UserError(
                f"method {self.name} sets single weights to zero, which saves no {MEASURED[measure]}: give sparsity=0.5 or "
                "sparsity='2:4', or use kprune"
            )
        raise UserError(
            f"method {self.name} prunes by {' or '.join(sorted(self.budgets))} alone, not by {measure}: ask for a share "
            "of FLOPs, or use kprune"
        )

    def check_head(self, model: Model) -> None:
        """Check that the method prunes models with the head of this one.

        Raises:
            UserError: it does not.
        """
        if self.heads != ANY_HEAD and not any(OBJECTIVES[name].fits(model) for name in self.heads):
            raise UserError(
                f"method {self.name} prunes models with a head for {' or '.join(sorted(self.heads))} alone, and this is a "
                f"{type(model).__name__}: use kprune"
            )

    def check_precision(self, precision: Precision) -> None:
        """Check that the method can compute its passes in a precision.

        Raises:
            UserError: the precision is unknown, or the method has no passes that it is about.
        """
        if precision not in PRECISIONS:
            raise UserError(f"precision='{precision}' is unknown: use {' or '.join(PRECISIONS)}")
        if precision == "reduced" and (not self.passes or "training" in self.needs):
            does = "trains" if self.passes else "does not run the model"
            raise UserError(
                f"method {self.name} {does}, and precision='reduced' is about passes over the texts: leave precision out"
            )

    def check_uniform(self) -> None:
        """Check that the method can keep all layers alike.

        Raises:
            UserError: it can't.
        """
        if not self.uniform:
            raise UserError(f"method {self.name} does not keep the layers alike: leave uniform out, or use kprune")

    def check_alike(self, view: ModelView, budget: Budget) -> None:
        """Check that layers which are alike can meet a budget.

        Raises:
            OutOfReach: they can't.
            UserError: the model's layers are not alike.
        """
        check_uniform(view, budget)

    def check_grain(self, grain: int, uniform: bool) -> None:
        """Check that the method can round widths to multiples of `grain` columns.

        Raises:
            UserError: it can't.
        """
        if grain > 1 and self.budgets != ANY_BUDGET:
            raise UserError(f"method {self.name} does not round widths: leave grain=1 or use kprune")

    def check_processes(self) -> None:
        """Check that the method can share its work among the processes there are.

        Raises:
            UserError: there are several, and it can't.
        """
        if not self.several_processes:
            check_alone(f"method {self.name}", "start one, or use kprune_plus")

    def check(self, model: Model, asked: Budget | Target) -> None:
        """Check that the method can prune this model to a budget, or to a share or pattern of zeros.

        Raises:
            OutOfReach: the budget asks for more than the method can remove.
            UserError: the method does not prune models with this head; does not prune to what the budget measures; does not round
                widths as the budget asks; or can't share its work, and there are several processes. Or the budget asks for layers
                that are alike, and the method does not keep them alike, or the model's layers are not.
        """
        self.check_head(model)
        if isinstance(asked, Target):
            self.check_measure(SPARSITY if asked.is_sparsity else NOTHING)
            self.check_processes()
            return
        budget = asked
        self.check_measure(budget.measure)
        self.check_processes()
        if budget.uniform:
            self.check_uniform()
            self.check_alike(view_of(model), budget)
        self.check_grain(budget.grain, budget.uniform)
        if isinstance(budget, FlopsBudget):
            reach = self.reach(model, budget.sequence_length)
            if budget.flops_reduction > reach:
                raise OutOfReach(
                    f"method {self.name} reaches a FLOPs reduction of {reach:.3f} on this model, not "
                    f"{budget.flops_reduction:g}: ask for less"
                )


def _in_its_precision(prune: Callable[[Method, Job], Outcome]) -> Callable[[Method, Job], Outcome]:
    @wraps(prune)
    def wrapped(self: Method, job: Job) -> Outcome:
        with full_precision(), linear_layers(job.data.precision):
            return prune(self, job)

    return wrapped
