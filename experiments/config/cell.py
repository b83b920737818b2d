"""The configuration of one cell: Hydra's dict is read once, into one frozen and typed object; all that is wrong is told at once."""

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
        config: plain values.
        defaults: `method` and `calibration` as their config files have them; what differs names the cell's variant.
        sweep: several cells in one go: the pruned model is not saved unless asked for.
        overrides: what was typed.

    Raises:
        UserError: something is wrong; all of it, a line each.
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
    if latency and latency.given and not sweep and not evaluates:  # in a sweep, it is for the other cells
        _check_latency(latency, request, method, found)
    if saving and not evaluates:
        _check_saving(saving, sweep, method, found)
    if request and request.sparsity is not None and saving and saving.format == "pruned":
        found.add("format=pruned is of narrower layers, and a sparsity narrows none: leave it out")
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
    """Collect why a vocabulary that is asked for can't be cut; nothing without one."""
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
    """Collect why a latency that is asked for would never be measured."""
    if request and request.sparsity is not None:
        found.add(f"{latency.given} is never measured, since zeros among the weights save no time: leave it out")
    elif method and not method.build().one_model:
        found.add(
            f"{latency.given} is never measured, since method {method.name} leaves no smaller model: leave it out"
        )


def _check_saving(saving: Saving, sweep: bool, method: MethodSettings | None, found: Collected) -> None:
    """Collect why nothing would be saved of what is asked for; in a sweep, where it is for the other cells, only if no cell saves."""
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
        UserError: an override is wrong, or a setting; all of them, a line each.
    """
    return cell_config(*compose_cell(overrides), sweep=False, overrides=overrides)


def _natural_format(target: Target) -> str:
    """Return the format of a saved model for which none is given."""
    if target.keeps_all:
        return "uniform"
    return "dense" if target.is_sparsity else "pruned"
