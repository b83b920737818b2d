"""The configuration of one cell: Hydra's dict is read once, into one frozen and typed object; all that is wrong is told at once."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from experiments.config.calibration import asked_for, checked_data, usual_names
from experiments.config.composing import compose_cell
from experiments.config.evaluating import Given, given_options
from experiments.config.groups import (
    OF_TASKS,
    CalibrationSettings,
    LatencyPoint,
    LatencySettings,
    MethodSettings,
    ModelSettings,
    Request,
    Settings,
    TaskSettings,
    Tracking,
    setting,
)
from experiments.config.kinds import FLAG, THREADS, Kind, check, one_of, or_null, shown, text, whole
from experiments.config.methods import build_method
from experiments.config.mistakes import Collected
from experiments.store.variant import variant_of
from experiments.tasks import Task
from kprune.budgets import Of
from kprune.checkpoint import check_format
from kprune.contract import ANY_BUDGET, MASKS, MEASURED, Method
from kprune.errors import UserError
from kprune.precision import PRECISIONS, Precision
from kprune.target import NOTHING, Target

Part = TypeVar("Part")


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
    onnx: bool = setting(FLAG)

    def __post_init__(self) -> None:
        check_format(self.format or "pruned", self.onnx)


@dataclass(frozen=True)
class Numbers:
    """What draws the calibration examples, how widths are rounded, whether all layers are alike, and the precision of passes."""

    seed: int = setting(whole(0, "0"))
    grain: int = setting(whole(1, "16"))
    uniform: bool = setting(FLAG)
    precision: Precision = setting(one_of(*PRECISIONS))


GROUPS: dict[str, type] = {
    "task": TaskSettings,
    "model": ModelSettings,
    "method": MethodSettings,
    "calibration": CalibrationSettings,
    "tracking": Tracking,
    "latency": LatencySettings,
}
UNGROUPED: tuple[type, ...] = (Request, Numbers, Run, Saving)
OPEN = ("task", "method")
"""Groups with settings that are not named here: those of a task's kind, and of a method, which check them themselves."""


def kinds_of(part: type) -> dict[str, Kind]:
    """Return the kind of each setting of a group."""
    return {entry.name: entry.metadata["kind"] for entry in fields(part) if "kind" in entry.metadata}


KINDS: dict[str, Kind] = {name: kind for part in UNGROUPED for name, kind in kinds_of(part).items()} | {
    f"{group}.{name}": kind for group, part in GROUPS.items() for name, kind in kinds_of(part).items()
}
"""Every setting that a config must have."""
OPTIONAL: dict[str, Kind] = {f"task.{name}": kind for name, kind in OF_TASKS.items()}


@dataclass(frozen=True)
class CellConfig:
    """One cell.

    Attributes:
        vocabulary: the texts whose tokens alone are kept: "calibration", "training" or a file; None: every token is.
        of: whose parameters a share of them is counted of.
        grain: columns that widths are multiples of.
        uniform: every layer keeps as many heads, and as many neurons; `format=uniform` implies it.
        precision: of the passes of the calibration set through the model.
        latency: None: it is not measured.
        save_model: the pruned model is written.
        evaluate: folder of a saved model that is scored, and nothing else is done.
        given: what stands beside `evaluate`.
        variant: what of the method's and the calibration set's settings are not their config files' own.
    """

    task: TaskSettings
    model: ModelSettings
    method: MethodSettings
    calibration: CalibrationSettings
    target: Target
    vocabulary: str | None
    of: Of
    grain: int
    uniform: bool
    precision: Precision
    latency: LatencyPoint | None
    seed: int
    device: str
    threads: int | None
    save_model: bool
    format: str
    onnx: bool
    tracking: str
    force: bool
    outputs: str
    evaluate: str | None
    given: tuple[Given, ...]
    variant: Settings


def cell_config(
    config: Mapping[str, Any], defaults: Mapping[str, Any], sweep: bool, overrides: Sequence[str] = ()
) -> CellConfig:
    """Read a composed config.

    Args:
        config: plain values.
        defaults: `method` and `calibration` as their config files have them; what differs names the cell's variant.
        sweep: several cells in one go: the pruned model is not saved unless asked for.
        overrides: what was typed.

    Raises:
        UserError: something is wrong; all of it, a line each.
    """
    found = Collected()
    groups = {name: _group(name, config, found) for name in GROUPS}
    groups["calibration"] = groups["calibration"] and asked_for(groups["calibration"], defaults["calibration"])
    _check_names(config, groups, found)
    request, numbers, run, saving = (_part(part, config, "", found) for part in UNGROUPED)
    if numbers and saving and saving.format == "uniform":
        numbers = replace(numbers, uniform=True)
    closed = {
        name: _part(part, groups[name], f"{name}.", found)
        for name, part in GROUPS.items()
        if name not in OPEN and groups[name] is not None
    }
    task = groups["task"] and _task(groups["task"], found)
    method = groups["method"] and _method(groups["method"], request, numbers, found)
    calibration, built = closed.get("calibration"), None
    if task and run and not run.evaluate:
        with found.catching():
            built = task.build()
    if built and calibration:
        with found.catching():
            calibration = checked_data(calibration, built, method)
    if request and request.budget == "latency" and config.get("latency", 0) is None:
        found.add("budget=latency needs a batch size and length to measure at: leave latency as it is")
    if request and request.vocabulary is not None:
        if built:
            with found.catching():
                built.check_vocabulary(request.vocabulary)
        if method and not method.build().one_model:
            found.add(f"method {method.name} has no model whose vocabulary could be cut: leave vocabulary out")
    saves = saving and (not sweep if saving.save_model is None else saving.save_model)
    if saving and not saves and not (run and run.evaluate) and (saving.format not in (None, "pruned") or saving.onnx):
        given = "onnx=true" if saving.onnx else f"format={saving.format}"
        found.add(f"{given} is about a saved model, and none is saved: add save_model=true, or leave it out")
    if request and request.sparsity is not None and saving and saving.format == "pruned":
        found.add("format=pruned is of narrower layers, and a sparsity narrows none: leave it out")
    found.tell()
    tracking, latency = closed["tracking"], closed.get("latency")
    named = {"method": method.settings.plain(), "calibration": calibration.named()}
    usual = {"method": defaults["method"], "calibration": usual_names(calibration, defaults["calibration"])}
    told = (numbers.grain, numbers.uniform, request.of, numbers.precision, request.vocabulary)
    variant = variant_of(named, usual, *told)
    return CellConfig(
        task=task,
        model=closed["model"],
        method=method,
        calibration=calibration,
        target=request.target,
        vocabulary=request.vocabulary,
        of=request.of,
        grain=numbers.grain,
        uniform=numbers.uniform,
        precision=numbers.precision,
        latency=latency and latency.point(*(built or Task).latency_point),
        seed=numbers.seed,
        save_model=saves,
        format=saving.format or _natural_format(request.target),
        onnx=saving.onnx,
        tracking=tracking.mode,
        given=given_options(overrides, config) if run.evaluate else (),
        variant=Settings.of(variant),
        **asdict(run),
    )


def configured(overrides: list[str], sweep: bool = False) -> CellConfig:
    """Compose and read the config of `python run.py OVERRIDES`.

    Raises:
        UserError: an override is wrong, or a setting; all of them, a line each.
    """
    return cell_config(*compose_cell(overrides), sweep, overrides)


def check_task(settings: Any) -> None:
    """Check a task's settings from elsewhere than a config, such as a saved model's folder.

    Raises:
        UserError: they are no task's.
    """
    found = Collected()
    group = _group("task", {"task": settings}, found)
    if group:
        _task(group, found)
    found.tell()


def _group(name: str, config: Mapping[str, Any], found: Collected) -> Mapping[str, Any] | None:
    """Return the settings of a group; None if there are none, which is a mistake unless it is latency's choice."""
    group = config.get(name, "")
    if isinstance(group, Mapping):
        return group
    if not (name == "latency" and group is None):  # without a point to measure it at, there is no latency
        example = next(setting for setting in KINDS if setting.startswith(f"{name}."))
        found.add(
            f"{name}={shown(config.get(name))} is no group of settings: give its settings by name, as in "
            f"{example}={KINDS[example].example}"
        )
    return None


def _check_names(config: Mapping[str, Any], groups: Mapping[str, Mapping | None], found: Collected) -> None:
    for name in _names(config, groups):
        if name not in KINDS and name.partition(".")[0] not in OPEN:
            near = difflib.get_close_matches(name, [*KINDS, *OPTIONAL], n=1)
            found.add(f"{name} is unknown: " + (f"use {near[0]}" if near else "conf/config.yaml has the settings"))


def _names(config: Mapping[str, Any], groups: Mapping[str, Mapping | None]) -> Iterator[str]:
    for key in config:
        if key in groups:
            yield from (f"{key}.{leaf}" for leaf in groups[key] or ())
        else:
            yield key


def _part(part: type[Part], given: Mapping[str, Any], prefix: str, found: Collected, **more: Any) -> Part | None:
    """Return a group's settings as its type; None if there is a mistake in it."""
    values = {}
    for name, kind in kinds_of(part).items():
        if name not in given:
            found.add(f"{prefix}{name} is missing: give one, such as {prefix}{name}={kind.example}")
            continue
        with found.catching():
            check(f"{prefix}{name}", given[name], kind)
            values[name] = given[name]
    if len(values) < len(kinds_of(part)):
        return None
    with found.catching():
        return part(**values, **more)
    return None


def _task(given: Mapping[str, Any], found: Collected) -> TaskSettings | None:
    right = True
    for name, kind in OF_TASKS.items():
        if name in given and not kind.holds(given[name]):
            right = False
            with found.catching():
                check(f"task.{name}", given[name], kind)
    task = _part(TaskSettings, given, "task.", found, settings=Settings.of(given))
    return task if right else None


def _method(
    given: Mapping[str, Any], request: Request | None, numbers: Numbers | None, found: Collected
) -> MethodSettings | None:
    settings = _part(MethodSettings, given, "method.", found, settings=Settings.of(given))
    if settings is None:
        return None
    try:
        method = settings.build()
    except UserError as error:
        # A constructor tells its first mistake alone: each setting is tried by itself, too.
        for message in [*_mistakes_of_single_settings(given), str(error)]:
            found.add(_as_option(message, given))
        return None
    if request:
        _check_measure(method, request, found)
    if numbers and numbers.grain > 1 and method.budgets != ANY_BUDGET:
        found.add(f"method {method.name} does not round widths: leave grain=1 or use method=kprune")
    if numbers and numbers.uniform and not method.uniform:
        found.add(
            f"method {method.name} does not keep the layers alike: leave uniform and format as they are or use method=kprune"
        )
    if numbers:
        with found.catching():
            method.check_precision(numbers.precision)
    return replace(settings, version=method.version)


def _check_measure(method: Method, request: Request, found: Collected) -> None:
    if request.measure in method.budgets:
        return
    if method.budgets == {NOTHING}:
        found.add(f"method {method.name} removes nothing: give flops_reduction=0 alone, or use method=kprune")
    elif request.measure == NOTHING:
        found.add(
            "flops_reduction=0 is outside (0, 1): give the share of FLOPs to remove, such as 0.8, or method=none, which removes "
            "nothing"
        )
    elif request.sparsity is not None:
        found.add(
            f"method {method.name} removes whole heads and neurons, not single weights: leave sparsity out, or use "
            "method=wanda or method=sparsegpt"
        )
    elif method.budgets == MASKS:
        found.add(
            f"method {method.name} sets single weights to zero, which saves no {MEASURED[request.budget]}: give sparsity=0.5 or "
            "sparsity=2:4 alone, or use method=kprune"
        )
    else:
        able = " or ".join(sorted(method.budgets))
        found.add(f"method {method.name} prunes by {able} alone: leave budget={able} or use method=kprune")


def _natural_format(target: Target) -> str:
    """Return the format of a saved model for which none is given."""
    if target.keeps_all:
        return "uniform"
    return "dense" if target.masks else "pruned"


def _mistakes_of_single_settings(given: Mapping[str, Any]) -> Iterator[str]:
    for key, value in given.items():
        try:
            build_method({"name": given["name"], key: value})
        except UserError as error:
            yield str(error)


def _as_option(message: str, given: Mapping[str, Any]) -> str:
    """Return a method's own message about a setting, which it knows by its argument's name, with the option's name."""
    argument = message.partition("=")[0]
    options = {option.rpartition(".")[2]: option for option in _dotted(given, "method")}
    return message.replace(argument, options[argument], 1) if argument in options else message


def _dotted(settings: Mapping[str, Any], name: str) -> Iterator[str]:
    for key, value in settings.items():
        yield from _dotted(value, f"{name}.{key}") if isinstance(value, Mapping) else [f"{name}.{key}"]
