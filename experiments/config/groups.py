"""The groups of a cell's settings as frozen types: each field says which values it takes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from experiments.config.composing import default_of, task_file_of
from experiments.config.kinds import (
    FLAG,
    TABLE,
    THREADS,
    Kind,
    either,
    names,
    number,
    one_of,
    or_null,
    path_name,
    positive,
    text,
    texts,
    whole,
)
from experiments.config.methods import build_method
from experiments.config.mistakes import Collected
from experiments.tasks import Task, build_task
from kprune.budgets import Of
from kprune.checkpoint import check_format
from kprune.checkpoint.onnx import Onnx
from kprune.contract import Method
from kprune.errors import UserError
from kprune.objectives.embedding import POOLINGS
from kprune.precision import PRECISIONS, Precision
from kprune.target import NOTHING, OPTIONS, SPARSITY, Target


def setting(kind: Kind) -> Any:
    """Return a field of a group that takes values of a kind."""
    return field(metadata={"kind": kind})


@dataclass(frozen=True)
class Settings:
    """Settings whose names are another module's to know, frozen: hashable, and a copy of its own for everyone who reads them."""

    json: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        return cls(json.dumps(values))

    def plain(self) -> dict[str, Any]:
        return json.loads(self.json)


@dataclass(frozen=True)
class TaskSettings:
    """A task: `settings` has all of them, with `name` and `kind`, for the class of this kind."""

    name: str = setting(path_name("custom"))
    kind: str = setting(text("custom"))
    settings: Settings

    def build(self) -> Task:
        """Return the task. If `label_names` are not its file's own, it is told these, which name the data's class numbers.

        Raises:
            UserError: the kind is unknown, or a setting is wrong.
        """
        settings = self.settings.plain()
        names = (
            settings.get("label_names") and settings.get("hub_id") and (task_file_of(settings) or {}).get("label_names")
        )
        if names and names != settings["label_names"]:
            settings["data_label_names"] = names
        return build_task(settings)

    @property
    def average_length(self) -> float | None:
        return self.settings.plain().get("average_length")


OF_TASKS = {
    "max_length": whole(1, "128"),
    "batch_size": whole(1, "32"),
    "average_length": or_null(positive("53.24")),
    "finetuning": or_null(TABLE),
    "train_file": or_null(text("FILE")),
    "evaluation_file": or_null(text("FILE")),
    "text": either(text("[sentence]"), texts("[sentence]")),
    "label": text("label"),
    "choices": either(text("choices"), texts("[A,B,C,D]")),
    "passages": text("passages"),
    "relevant": or_null(text("relevant")),
    "grades": or_null(text("grades")),
    "group": or_null(text("title")),
    "problem": text("classification"),
    "metric": or_null(text("accuracy")),
    "train_split": text("train"),
    "evaluation_split": text("validation"),
    "label_names": or_null(names("[no,yes]")),
    "stride": whole(0, "128"),
    "max_answer_length": whole(1, "30"),
    "no_answers": FLAG,
    "train_per_class": whole(1, "1500"),
    "evaluation_per_class": whole(1, "300"),
    "libraries": TABLE,
    "window": or_null(whole(2, "2048")),
    "windows": or_null(whole(1, "16")),
    "pooling": one_of(*POOLINGS),
    "normalise": FLAG,
    "documents": or_null(whole(1, "1100")),
    "separator": Kind("text", r'"\n\n"', lambda value: isinstance(value, str)),  # blanks, or none, too
    "hub_file": or_null(text("FILE")),
}
"""Settings that some kinds of tasks have."""


@dataclass(frozen=True)
class MethodSettings:
    """A pruning method: `settings` has all of them, with `name`, for its constructor; `version` is its algorithm's."""

    name: str = setting(path_name("kprune"))
    settings: Settings
    version: int = 1

    def build(self) -> Method:
        """Return the method.

        Raises:
            UserError: the method or a setting is unknown, or a value is out of range.
        """
        return build_method(self.settings.plain())

    @property
    def trains(self) -> bool:
        """Tell whether the method trains, for as long as its recipe says."""
        return "recipe" in self.settings.plain()


@dataclass(frozen=True)
class ModelSettings:
    """The encoder: its name, where it is found, and the fine-tuned checkpoint if one is given."""

    name: str = setting(path_name("minilm"))
    encoder: str = setting(path_name("minilm-l6"))
    pretrained: str = setting(text("FOLDER"))
    checkpoint: str | None = setting(or_null(text("FOLDER")))


@dataclass(frozen=True)
class CalibrationSettings:
    """The calibration set: a number of `examples`, else those of so many `tokens`; or those of a `file`.

    Texts are drawn from `data`: a data set's name or a file of texts; None: the task's own.
    """

    tokens: float = setting(positive("100000"))
    examples: int | None = setting(or_null(whole(1, "2048")))
    file: str | None = setting(or_null(text("FILE")))
    data: str | None = setting(or_null(text("c4")))

    def __post_init__(self) -> None:
        for name in ("examples", "data"):
            if self.file and getattr(self, name):
                raise UserError(f"calibration.file has its examples already: leave calibration.{name} out, or the file")

    def counted(self) -> dict[str, Any]:
        """Return the settings that count: of `tokens`, nothing does if a number of examples is given; no `data` if they are the task's."""
        settings = asdict(self)
        if self.examples:
            del settings["tokens"]
        if not self.data:
            del settings["data"]
        return settings

    def named(self) -> dict[str, Any]:
        """Return the settings that a cell's name tells if they are not their config file's own."""
        return {name: value for name, value in self.counted().items() if value is not None}


@dataclass(frozen=True)
class LatencyPoint:
    """What latency is measured at."""

    batch_size: int
    sequence_length: int


@dataclass(frozen=True)
class LatencySettings:
    """What latency is to be measured at; None: what the task says."""

    batch_size: int | None = setting(or_null(whole(1, "32")))
    sequence_length: int | None = setting(or_null(whole(1, "128")))

    @property
    def given(self) -> str:
        """Return what was not left to the task, as options; "" for nothing."""
        return " ".join(f"latency.{name}={value}" for name, value in vars(self).items() if value is not None)

    def point(self, batch_size: int, sequence_length: int) -> LatencyPoint:
        """Return the point, a task's own amounts in the place of what was left to it."""
        return LatencyPoint(self.batch_size or batch_size, self.sequence_length or sequence_length)


@dataclass(frozen=True)
class Tracking:
    """Whether Weights & Biases gets the results."""

    mode: str = setting(one_of("offline", "online", "disabled"))


@dataclass(frozen=True)
class Request:
    """What is asked for: `budget` says which of the three amounts counts, `of` whose parameters are; or `sparsity`, zeros among
    the weights, of which no budget counts anything. Beside them, `vocabulary` names texts whose tokens alone are kept.

    Raises:
        UserError: the budget is unknown, its amount out of range, or another budget's amount is given.
    """

    budget: str = setting(text("flops"))
    flops_reduction: float = setting(number("0.8"))
    params_reduction: float | None = setting(or_null(number("0.2")))
    speedup: float | None = setting(or_null(number("3")))
    of: Of = setting(one_of(*get_args(Of)))
    sparsity: float | str | None = setting(or_null(either(number("0.5"), text("2:4"))))
    vocabulary: str | None = setting(or_null(text("calibration")))

    def __post_init__(self) -> None:
        found = Collected()
        with found.catching():
            self.target  # noqa: B018 (raises)
        if self.sparsity is not None:
            self._check_alone(found)
            found.tell()
            return
        for budget, option in OPTIONS.items() if self.budget in OPTIONS else ():
            value, default = getattr(self, option), default_of(option)
            if budget != self.budget and value != default:
                instead = "leave it out" if default is None else f"leave it at {default}"
                found.add(f"{option}={value} goes with another budget: add budget={budget}, or {instead}")
        if self.of != "layers" and self.budget != "parameters":
            found.add(f"of={self.of} says which parameters are counted: add budget=parameters, or leave it out")
        found.tell()

    def _check_alone(self, found: Collected) -> None:
        for name in ("budget", *OPTIONS.values(), "of"):
            value, default = getattr(self, name), default_of(name)
            if value != default:
                instead = "leave it out" if default is None else f"leave it at {default}"
                found.add(f"{name}={value} asks for fewer units, and sparsity for zeros among the weights: {instead}")

    @property
    def measure(self) -> str:
        """Return what a method must prune to."""
        if self.sparsity is not None:
            return SPARSITY
        return NOTHING if self.target.keeps_all else self.budget

    @property
    def target(self) -> Target:
        return Target.from_options(vars(self))


@dataclass(frozen=True)
class Run:
    """How a cell is run: nothing of it changes the result."""

    device: str = setting(text("auto"))
    threads: int | None = setting(or_null(THREADS))
    force: bool = setting(FLAG)
    outputs: str = setting(text("outputs"))
    evaluate: str | None = setting(or_null(text("FOLDER")))


@dataclass(frozen=True)
class Saving:
    """Whether the pruned model is written (`save_model`; null: for a single run, not in a sweep), and how."""

    save_model: bool | None = setting(or_null(FLAG))
    format: str | None = setting(or_null(text("pruned")))
    onnx: Onnx = setting(either(FLAG, one_of("int8")))

    def __post_init__(self) -> None:
        check_format(self.format or "pruned", self.onnx)


@dataclass(frozen=True)
class PruningOptions:
    """What draws the calibration examples, how widths are rounded, whether all layers are alike, and the precision of passes."""

    seed: int = setting(whole(0, "0"))
    grain: int = setting(whole(1, "16"))
    uniform: bool = setting(FLAG)
    precision: Precision = setting(one_of(*PRECISIONS))
