"""What a config asks of the calibration set, beside what the set's own file says."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.config.groups import CalibrationSettings, MethodSettings
from experiments.tasks import Task
from kprune.errors import UserError


def without_default_examples(calibration: Mapping[str, Any], default: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings without the config file's default `examples` if the user gave another `tokens`, or a `file` of examples."""
    other = calibration.get("file") or calibration.get("tokens") != default["tokens"]
    own = default["examples"] is not None and calibration.get("examples") == default["examples"]
    return {**calibration, "examples": None} if other and own else calibration


def check_amounts(calibration: CalibrationSettings, default: Mapping[str, Any]) -> None:
    """Raise a UserError if a number of tokens was given beside one of examples, or beside a file, which would count."""
    if calibration.tokens != default["tokens"] and (calibration.examples or calibration.file):
        counts = "has its examples already" if calibration.file else f"={calibration.examples} counts examples"
        option = "calibration.file " if calibration.file else "calibration.examples"
        raise UserError(
            f"calibration.tokens={calibration.tokens:g} would be ignored, since {option}{counts}: leave one of them out"
        )


def checked_data(calibration: CalibrationSettings, task: Task, method: MethodSettings | None) -> CalibrationSettings:
    """Return the settings with `data` left out if they are the task's own.

    Raises:
        UserError: the task can't draw examples from the data, or the method reads labels and there are none.
    """
    if not calibration.file:
        task.check_data(calibration.data)
    if method and method.build().needs and (calibration.data or not task.labelled):
        what = "calibration.data has none: leave it out, or" if task.labelled else f"{task.name} has none:"
        raise UserError(f"method {method.name} reads labels, and {what} use method=kprune")
    return replace(calibration, data=None) if calibration.data == task.calibration_data else calibration


def default_names(calibration: CalibrationSettings, default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default calibration settings, which a cell's name leaves out; without `examples` if `calibration.file` is given."""
    return CalibrationSettings(**{**default, "examples": None} if calibration.file else default).named()
