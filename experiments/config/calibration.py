"""Checks of a config's calibration settings against the defaults of their config file, the task and the method."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.config.groups import CalibrationSettings, MethodSettings
from experiments.tasks import Task
from kprune.errors import UserError


def without_default_examples(calibration: Mapping[str, Any], default: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the calibration settings, with `examples` None if it is only the default and the user gave `tokens` or a `file`."""
    other = calibration.get("file") or calibration.get("tokens") != default["tokens"]
    own = default["examples"] is not None and calibration.get("examples") == default["examples"]
    return {**calibration, "examples": None} if other and own else calibration


def check_amounts(calibration: CalibrationSettings, default: Mapping[str, Any]) -> None:
    """Check that `tokens` was not given together with `examples` or a `file`, since either makes `tokens` ineffective.

    Raises:
        UserError: `tokens` is not the default, and `examples` or `file` is given.
    """
    if calibration.tokens != default["tokens"] and (calibration.examples or calibration.file):
        counts = "has its examples already" if calibration.file else f"={calibration.examples} counts examples"
        option = "calibration.file " if calibration.file else "calibration.examples"
        raise UserError(
            f"calibration.tokens={calibration.tokens:g} would be ignored, since {option}{counts}: leave one of them out"
        )


def checked_data(calibration: CalibrationSettings, task: Task, method: MethodSettings | None) -> CalibrationSettings:
    """Return the calibration settings, with `data` None if it names the task's own data.

    Raises:
        UserError: the task can't draw examples from `data`, or the method reads labels and the calibration examples have none.
    """
    if not calibration.file:
        task.check_data(calibration.data)
    if method and method.build().needs and (calibration.data or not task.labelled):
        what = "calibration.data has none: leave it out, or" if task.labelled else f"{task.name} has none:"
        raise UserError(f"method {method.name} reads labels, and {what} use method=kprune")
    return replace(calibration, data=None) if calibration.data == task.calibration_data else calibration


def default_names(calibration: CalibrationSettings, default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default calibration settings; the name of a cell does not mention them. A given `file` removes the default `examples`."""
    return CalibrationSettings(**{**default, "examples": None} if calibration.file else default).named()
