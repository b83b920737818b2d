"""The groups of a cell's settings as frozen types; the metadata of a field say which values it takes."""

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
    """Return a dataclass field that takes values of the given kind."""
    return field(metadata={"kind": kind})


@dataclass(frozen=True)
class Settings:
    """Settings whose names only another module knows, as JSON: hashable, and `plain` returns a new copy to each caller."""

    json: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        return cls(json.dumps(values))

    def plain(self) -> dict[str, Any]:
        return json.loads(self.json)


@dataclass(frozen=True)
class TaskSettings:
    """A task: `settings` are all its settings, including `name` and `kind`, for the class of this kind."""

    name: str = setting(path_name("custom"))
    kind: str = setting(text("custom"))
    settings: Settings

    def build(self) -> Task:
        """Return the task.

        If `label_names` differ from the names in the task's file in conf/task, the task also gets the file's names, as the names of
        the data's class numbers.

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
"""Settings that only some kinds of tasks have, with the values that they take."""


@dataclass(frozen=True)
class MethodSettings:
    """A pruning method: `settings` are all its settings, including `name`; `version` is the version of its algorithm."""

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
        """Tell whether the method trains the model; such a method has a `recipe` among its settings."""
        return "recipe" in self.settings.plain()


@dataclass(frozen=True)
class ModelSettings:
    """The model: its name, the name of its pretrained model, and the folders or hub ids of the pretrained and the fine-tuned model."""

    name: str = setting(path_name("minilm"))
    encoder: str = setting(path_name("minilm-l6"))
    pretrained: str = setting(text("FOLDER"))
    checkpoint: str | None = setting(or_null(text("FOLDER")))


@dataclass(frozen=True)
class CalibrationSettings:
    """The calibration set: either the examples of `file`, or a number of examples (`examples`, else `tokens` in all) drawn from `data`.

    `data` names a data set or a file of texts; None stands for the task's own data.

    Raises:
        UserError: `file` is given together with `examples` or `data`.
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
        """Return the settings that have an effect: without `tokens` if `examples` is given, and without `data` if it is None."""
        settings = asdict(self)
        if self.examples:
            del settings["tokens"]
        if not self.data:
            del settings["data"]
        return settings

    def named(self) -> dict[str, Any]:
        """Return the settings that the name of a cell tells where they differ from the defaults."""
        return {name: value for name, value in self.counted().items() if value is not None}


@dataclass(frozen=True)
class LatencyPoint:
    """The batch size, in sequences, and the sequence length, in tokens, that latency is measured at."""

    batch_size: int
    sequence_length: int


@dataclass(frozen=True)
class LatencySettings:
    """The requested batch size and sequence length for latency; None leaves the number to the task."""

    batch_size: int | None = setting(or_null(whole(1, "32")))
    sequence_length: int | None = setting(or_null(whole(1, "128")))

    @property
    def given(self) -> str:
        """Return the numbers that the user gave, written as options; "" if the task decides both."""
        return " ".join(f"latency.{name}={value}" for name, value in vars(self).items() if value is not None)

    def point(self, batch_size: int, sequence_length: int) -> LatencyPoint:
        """Return the point to measure at, with the task's `batch_size` or `sequence_length` where the user gave none."""
        return LatencyPoint(self.batch_size or batch_size, self.sequence_length or sequence_length)


@dataclass(frozen=True)
class Tracking:
    """Whether Weights & Biases gets the results."""

    mode: str = setting(one_of("offline", "online", "disabled"))


@dataclass(frozen=True)
class Request:
    """What the user asks for: a budget or a sparsity, and a vocabulary.

    `budget` says which of `flops_reduction`, `params_reduction` and `speedup` is used, and `of` the part of the model whose
    parameters are counted. `sparsity` is a share or pattern of zeros; None for a budget. `vocabulary` is as in `CellConfig`.

    Raises:
        UserError: the budget is unknown, its amount is out of range, a setting belongs to another budget, or `sparsity` is given
            together with a setting of a budget.
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
        """Return the kind of target that a method must support: a budget, `SPARSITY` or `NOTHING`."""
        if self.sparsity is not None:
            return SPARSITY
        return NOTHING if self.target.keeps_all else self.budget

    @property
    def target(self) -> Target:
        return Target.from_options(vars(self))


@dataclass(frozen=True)
class Run:
    """How a cell is run; no setting of this group changes the result."""

    device: str = setting(text("auto"))
    threads: int | None = setting(or_null(THREADS))
    force: bool = setting(FLAG)
    outputs: str = setting(text("outputs"))
    evaluate: str | None = setting(or_null(text("FOLDER")))


@dataclass(frozen=True)
class Saving:
    """Whether the pruned model is written (`save_model`; None: yes in a single run, no in a sweep), and in which format.

    Raises:
        UserError: the format is unknown, or it does not go with `onnx`.
    """

    save_model: bool | None = setting(or_null(FLAG))
    format: str | None = setting(or_null(text("pruned")))
    onnx: Onnx = setting(either(FLAG, one_of("int8")))

    def __post_init__(self) -> None:
        check_format(self.format or "pruned", self.onnx)


@dataclass(frozen=True)
class PruningOptions:
    """The seed that draws the calibration examples, the grain of widths, whether all layers are alike, and the precision of passes."""

    seed: int = setting(whole(0, "0"))
    grain: int = setting(whole(1, "16"))
    uniform: bool = setting(FLAG)
    precision: Precision = setting(one_of(*PRECISIONS))
