"""The configuration of one cell: Hydra's dict is read once into a frozen, typed object, and all mistakes are reported together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from experiments.config.calibration import check_amounts, checked_data, default_names, without_default_examples
from experiments.config.composing import compose_cell
from experiments.config.evaluating import Given, given_options
from experiments.config.groups import (
    CalibrationSettings,
    LatencyPoint,
    LatencySettings,
    MethodSettings,
    ModelSettings,
    Request,
    Saving,
    Settings,
    TaskSettings,
)
from experiments.config.kinds import shown
from experiments.config.mistakes import Collected
from experiments.config.reading import GROUPS, OPEN, UNGROUPED, check_names, group_of, method_of, part_of, task_of
from experiments.store.variant import variant_of
from experiments.tasks import Task
from kprune.budgets import Of
from kprune.checkpoint.onnx import Onnx
from kprune.precision import Precision
from kprune.target import Target


@dataclass(frozen=True)
class CellConfig:
    """The checked settings of one cell.

    Attributes:
        vocabulary: the source of the tokens to keep: "calibration", "training" or a file of texts; None keeps every token.
        of: the part of the model whose parameters a budget of parameters counts.
        grain: number of columns; the width of every pruned block is a multiple of it.
        uniform: whether every layer keeps the same number of heads and the same number of neurons; `format=uniform` implies it.
        precision: the precision of the passes of the calibration set through the model.
        latency: the batch size and length to measure latency at; None if latency is not measured.
        save_model: whether the pruned model is written.
        evaluate: folder of a saved model; the run only scores this model. None for a cell that prunes.
        given: the options on the command line beside `evaluate`; empty for a cell that prunes.
        variant: the settings that the name of the cell tells, since they differ from the defaults.
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
    onnx: Onnx
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
        config: the composed config as plain values.
        defaults: the settings of the config files of `method` and `calibration`; settings that differ make the cell's variant.
        sweep: whether the cell is one of a sweep; a sweep saves the pruned model only if `save_model=true` is given.
        overrides: the options as the user typed them.

    Raises:
        UserError: a setting is missing, unknown or wrong; the message has a line for each mistake.
    """
    found = Collected()
    groups = {name: group_of(name, config, found) for name in GROUPS}
    if groups["calibration"]:
        groups["calibration"] = without_default_examples(groups["calibration"], defaults["calibration"])
    check_names(config, groups, found)
    request, pruning, run, saving = (part_of(part, config, "", found) for part in UNGROUPED)
    if pruning and saving and saving.format == "uniform":
        pruning = replace(pruning, uniform=True)
    closed = {
        name: part_of(part, groups[name], f"{name}.", found)
        for name, part in GROUPS.items()
        if name not in OPEN and groups[name] is not None
    }
    task = groups["task"] and task_of(groups["task"], found)
    method = groups["method"] and method_of(groups["method"], request, pruning, found)
    calibration, built = closed.get("calibration"), None
    if task and run and not run.evaluate:
        with found.catching():
            built = task.build()
    if built and calibration:
        with found.catching():
            check_amounts(calibration, defaults["calibration"])
            calibration = checked_data(calibration, built, method)
    if request and request.budget == "latency" and config.get("latency", 0) is None:
        found.add("budget=latency needs a batch size and length to measure at: leave latency as it is")
    _check_vocabulary(request, built, method, found)
    evaluates = bool(run and run.evaluate)
    latency = closed.get("latency")
    if latency and latency.given and not sweep and not evaluates:  # in a sweep, another cell may use the option
        _check_latency(latency, request, method, found)
    if saving and not evaluates:
        _check_saving(saving, sweep, method, found)
    if request and request.sparsity is not None and saving and saving.format == "pruned":
        found.add("format=pruned saves narrower layers, and sparsity makes no layer narrower: leave format out")
    found.tell()
    tracking = closed["tracking"]
    named = {"method": method.settings.plain(), "calibration": calibration.named()}
    usual = {"method": defaults["method"], "calibration": default_names(calibration, defaults["calibration"])}
    options = (pruning.grain, pruning.uniform, request.of, pruning.precision, request.vocabulary)
    variant = variant_of(named, usual, *options)
    return CellConfig(
        task=task,
        model=closed["model"],
        method=method,
        calibration=calibration,
        target=request.target,
        vocabulary=request.vocabulary,
        of=request.of,
        grain=pruning.grain,
        uniform=pruning.uniform,
        precision=pruning.precision,
        latency=latency and latency.point(*(built or Task).latency_point),
        seed=pruning.seed,
        save_model=_saves(saving, sweep),
        format=saving.format or _natural_format(request.target),
        onnx=saving.onnx,
        tracking=tracking.mode,
        given=given_options(overrides, config) if run.evaluate else (),
        variant=Settings.of(variant),
        **asdict(run),
    )


def _check_vocabulary(
    request: Request | None, task: Task | None, method: MethodSettings | None, found: Collected
) -> None:
    """Collect the reasons why the requested vocabulary can't be cut; without a request, there are none."""
    if not request or request.vocabulary is None:
        return
    if task:
        with found.catching():
            task.check_vocabulary(request.vocabulary)
    if method and not method.build().one_model:
        found.add(f"method {method.name} has no model whose vocabulary could be cut: leave vocabulary out")


def _check_latency(
    latency: LatencySettings, request: Request | None, method: MethodSettings | None, found: Collected
) -> None:
    """Collect the reason why the requested latency would never be measured."""
    if request and request.sparsity is not None:
        found.add(f"{latency.given} is never measured, since zeros among the weights save no time: leave it out")
    elif method and not method.build().one_model:
        found.add(
            f"{latency.given} is never measured, since method {method.name} leaves no smaller model: leave it out"
        )


def _check_saving(saving: Saving, sweep: bool, method: MethodSettings | None, found: Collected) -> None:
    """Collect the reason why the options for saving would have no effect.

    In a sweep, an option that has no effect in this cell may be meant for another cell: it is a mistake only if no cell saves.
    """
    how = [f"format={saving.format}"] if saving.format not in (None, "pruned") else []
    how += [f"onnx={shown(saving.onnx)}"] if saving.onnx else []
    if not _saves(saving, sweep):
        if how:
            found.add(
                f"{' '.join(how)} is about a saved model, and none is saved: add save_model=true, or leave it out"
            )
        return
    given = " ".join(["save_model=true"] * bool(saving.save_model) + how)
    if given and not sweep and method and not method.build().one_model:
        found.add(f"{given} would save nothing, since method {method.name} leaves no smaller model: leave it out")


def _saves(saving: Saving, sweep: bool) -> bool:
    return not sweep if saving.save_model is None else saving.save_model


def configured(overrides: list[str]) -> CellConfig:
    """Compose and read the config of `python run.py OVERRIDES`.

    Raises:
        UserError: an override is wrong, or settings are; the message has a line for each wrong setting.
    """
    return cell_config(*compose_cell(overrides), sweep=False, overrides=overrides)


def _natural_format(target: Target) -> str:
    """Return the format in which a pruned model is saved if the user gives no format."""
    if target.keeps_all:
        return "uniform"
    return "dense" if target.is_sparsity else "pruned"
