"""Reading the settings of a config group by group: each group is read as its type, and mistakes are collected."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from experiments.config.groups import (
    OF_TASKS,
    CalibrationSettings,
    LatencySettings,
    MethodSettings,
    ModelSettings,
    PruningOptions,
    Request,
    Run,
    Saving,
    Settings,
    TaskSettings,
    Tracking,
)
from experiments.config.kinds import Kind, check, shown
from experiments.config.methods import build_method
from experiments.config.mistakes import Collected
from experiments.store.variant import flattened
from kprune.contract import MEASURED, ZEROS, Method
from kprune.errors import UserError
from kprune.target import NOTHING

Part = TypeVar("Part")

GROUPS: dict[str, type] = {
    "task": TaskSettings,
    "model": ModelSettings,
    "method": MethodSettings,
    "calibration": CalibrationSettings,
    "tracking": Tracking,
    "latency": LatencySettings,
}
UNGROUPED: tuple[type, ...] = (Request, PruningOptions, Run, Saving)
OPEN = ("task", "method")
"""Groups with settings that are not listed here: the class of the task or the method checks them itself."""


def kinds_of(part: type) -> dict[str, Kind]:
    """Return the kind of each setting of a group."""
    return {entry.name: entry.metadata["kind"] for entry in fields(part) if "kind" in entry.metadata}


KINDS: dict[str, Kind] = {name: kind for part in UNGROUPED for name, kind in kinds_of(part).items()} | {
    f"{group}.{name}": kind for group, part in GROUPS.items() for name, kind in kinds_of(part).items()
}
"""The kind of every setting that a config must have, by the setting's dotted name."""
OPTIONAL: dict[str, Kind] = {f"task.{name}": kind for name, kind in OF_TASKS.items()}


def check_task(settings: Any) -> None:
    """Check settings of a task that do not come from a config but, for example, from a saved model's folder.

    Raises:
        UserError: they are no table of settings, `name` or `kind` is missing, or a value is wrong.
    """
    found = Collected()
    group = group_of("task", {"task": settings}, found)
    if group:
        task_of(group, found)
    found.tell()


def group_of(name: str, config: Mapping[str, Any], found: Collected) -> Mapping[str, Any] | None:
    """Return the settings of a group; None if the config has no table of settings there.

    None is collected as a mistake, except for `latency=null`, which turns the measurement of latency off.
    """
    group = config.get(name, "")
    if isinstance(group, Mapping):
        return group
    if not (name == "latency" and group is None):
        example = next(setting for setting in KINDS if setting.startswith(f"{name}."))
        found.add(
            f"{name}={shown(config.get(name))} is no group of settings: give its settings by name, as in "
            f"{example}={KINDS[example].example}"
        )
    return None


def check_names(config: Mapping[str, Any], groups: Mapping[str, Mapping | None], found: Collected) -> None:
    """Collect a mistake for each unknown setting, with the most similar known name as the remedy."""
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


def part_of(part: type[Part], given: Mapping[str, Any], prefix: str, found: Collected, **more: Any) -> Part | None:
    """Return a group's settings as an object of its type; None if a mistake in them was collected.

    Args:
        part: the type of the group.
        given: the settings by name, without the group's name.
        prefix: the group's name and a dot, for messages; "" for ungrouped settings.
        found: collects the mistakes.
        more: further arguments of the type.
    """
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


def task_of(given: Mapping[str, Any], found: Collected) -> TaskSettings | None:
    """Return a task's settings as their type; None if a mistake in them was collected."""
    right = True
    for name, kind in OF_TASKS.items():
        if name in given and not kind.holds(given[name]):
            right = False
            with found.catching():
                check(f"task.{name}", given[name], kind)
    task = part_of(TaskSettings, given, "task.", found, settings=Settings.of(given))
    return task if right else None


def method_of(
    given: Mapping[str, Any], request: Request | None, pruning: PruningOptions | None, found: Collected
) -> MethodSettings | None:
    """Return a method's settings as their type; None if a mistake in them was collected.

    A request or pruning option that the method does not support is collected as a mistake, too.
    """
    settings = part_of(MethodSettings, given, "method.", found, settings=Settings.of(given))
    if settings is None:
        return None
    try:
        method = settings.build()
    except UserError as error:
        # A constructor reports only its first mistake, so each setting is also tried on its own.
        for message in [*_mistakes_of_single_settings(given), str(error)]:
            found.add(_as_option(message, given))
        return None
    if request:
        _check_measure(method, request, found)
    if pruning:
        with found.catching():
            method.check_grain(pruning.grain, pruning.uniform)
    if pruning and pruning.uniform and not method.uniform:
        found.add(
            f"method {method.name} does not keep the layers alike: leave uniform and format as they are or use method=kprune"
        )
    if pruning:
        with found.catching():
            method.check_precision(pruning.precision)
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
    elif method.budgets == ZEROS:
        found.add(
            f"method {method.name} sets single weights to zero, which saves no {MEASURED[request.budget]}: give sparsity=0.5 or "
            "sparsity=2:4 alone, or use method=kprune"
        )
    else:
        able = " or ".join(sorted(method.budgets))
        found.add(f"method {method.name} prunes by {able} alone: leave budget={able} or use method=kprune")


def _mistakes_of_single_settings(given: Mapping[str, Any]) -> Iterator[str]:
    for key, value in given.items():
        try:
            build_method({"name": given["name"], key: value})
        except UserError as error:
            yield str(error)


def _as_option(message: str, given: Mapping[str, Any]) -> str:
    """Return a method's message about a setting with the option's name in the place of the argument's name."""
    argument = message.partition("=")[0]
    options = {name.rpartition(".")[2]: f"method.{name}" for name in flattened(given)}
    return message.replace(argument, options[argument], 1) if argument in options else message
