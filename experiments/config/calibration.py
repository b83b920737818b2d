"""What a config asks of the calibration set, beside what the set's own file says."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.config.groups import CalibrationSettings, MethodSettings
from experiments.tasks import Task
from kprune.errors import UserError


def asked_for(calibration: Mapping[str, Any], default: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a calibration set's settings without its config file's own number of examples if something else is asked for.

    That is another number of tokens, or a file, which has its examples.
    """
    other = calibration.get("file") or calibration.get("tokens") != default["tokens"]
    own = default["examples"] is not None and calibration.get("examples") == default["examples"]
    return {**calibration, "examples": None} if other and own else calibration


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


def usual_names(calibration: CalibrationSettings, default: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell's name leaves unsaid of its calibration set: the settings of the file; of a file's examples, no number."""
    return CalibrationSettings(**{**default, "examples": None} if calibration.file else default).named()
