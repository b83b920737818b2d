"""Matching the outputs of a classifier with the classes of a task, by the names in the checkpoint if it has names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from experiments.tasks.base import Task
from experiments.tasks.labels import canonical, places_of, shown
from kprune.errors import UserError
from kprune.objectives import MultiLabel


def outputs_of(folder: Path, config: Mapping[str, Any], task: Task) -> list[int] | None:
    """Return for each class of a task the number of the checkpoint's output; None if the outputs are in the task's order.

    If the checkpoint has no names, or only other names than the task, its outputs are taken to be in the task's order; a printed
    line tells of other names.

    Args:
        folder: the folder of the checkpoint, for messages.
        config: the content of its config.json.
        task: the task.

    Raises:
        UserError: config.json is damaged, the numbers of outputs and classes differ, only one of checkpoint and task has several
            labels for a text, or some names are the same but stand at other places.
    """
    if task.label_names is None:
        return None
    ours, theirs = list(task.label_names), names_of(folder, config)
    count = len(theirs) or config.get("num_labels") or 2  # transformers' own default
    if not isinstance(count, int):
        raise UserError(f"{folder}/config.json says num_labels={str(count)[:40]}: copy the checkpoint again")
    if count != len(ours):
        raise UserError(_other_number(folder, task, ours, theirs, count))
    problem, wanted = config.get("problem_type"), task.objective.problem_type
    if count > 1 and wanted and problem not in (None, wanted):
        labels = "several labels" if isinstance(task.objective, MultiLabel) else "one class"
        raise UserError(
            f"{folder} has problem_type={problem} with {count} outputs, and {task.name} has {labels} for each text: give "
            f"model.checkpoint=FOLDER of a model with problem_type={wanted}"
        )
    if count == 1 or _unnamed(theirs):
        return None
    places = places_of(ours, theirs)
    if places is None:
        _check_order(folder, task, ours, theirs)
        return None
    return None if places == list(range(count)) else places


def names_of(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Return the names of a checkpoint's outputs in their order; [] if it has no names.

    The names are from `id2label`, or from `label2id` if those in `id2label` are only numbers.

    Raises:
        UserError: `id2label` or `label2id` in config.json is damaged.
    """
    by_output, by_name = config.get("id2label") or {}, config.get("label2id") or {}
    try:
        names = [str(by_output[key]) for key in sorted(by_output, key=int)]
        others = [str(name) for name in sorted(by_name, key=lambda name: int(by_name[name]))]
        if sorted(map(int, by_output)) != list(range(len(names))):
            raise ValueError
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(
            f"{folder}/config.json: id2label or label2id does not number the labels from 0: mend it, or copy the checkpoint again"
        ) from error
    return others if _unnamed(names) and len(others) == len(names) else names


def reorder(model: nn.Module, outputs: Sequence[int]) -> None:
    """Put a classifier's outputs and their names in another order, in place: output `outputs[i]` becomes output i.

    Raises:
        UserError: the last linear layer of the head does not have `len(outputs)` outputs.
    """
    inside = set(model.base_model.modules())
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inside]
    if not heads or heads[-1].out_features != len(outputs):
        raise UserError(
            f"{type(model).__name__} has no linear layer of {len(outputs)} outputs that could be put in the task's order: "
            "list the classes in the checkpoint's order in task.label_names"
        )
    head, order = heads[-1], list(outputs)
    for parameter in filter(lambda entry: entry is not None, (head.weight, head.bias)):
        parameter.data = parameter.data[order]
    names = [model.config.id2label[output] for output in order]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: output for output, name in enumerate(names)}


def inverse(outputs: Sequence[int]) -> list[int]:
    """Return the inverse of an order: `reorder` with it undoes `reorder` with `outputs`."""
    return sorted(range(len(outputs)), key=outputs.__getitem__)


def _unnamed(names: Sequence[str]) -> bool:
    """Tell whether the names are only the numbers of the outputs, such as LABEL_0 and LABEL_1, the defaults of transformers."""
    return [canonical(name) for name in names] == [str(number) for number in range(len(names))]


def _other_number(folder: Path, task: Task, ours: list[str], theirs: list[str], count: int) -> str:
    has = f"{folder} has {count} label{'s' if count > 1 else ''}" + (f" ({shown(theirs)})" if theirs else "")
    needed = f"{task.name} has {len(ours)} ({shown(ours)})"
    if count == 1:
        return f"{has}, {needed}: if the labels are values, set task.problem=regression; else give a classifier"
    known = {canonical(name) for name in theirs}
    if all(canonical(name) in known for name in ours) and len(ours) > 1:
        return f"{has}, {needed}: list all of them, task.label_names=[{','.join(theirs)}]"
    return f"{has}, {needed}: give model.checkpoint=FOLDER of a model fine-tuned on it"


def _check_order(folder: Path, task: Task, ours: list[str], theirs: list[str]) -> None:
    """Print that outputs with other names are taken in the task's order.

    Raises:
        UserError: some names are the same but stand at other places.
    """
    alike = [canonical(name) for name in theirs]
    elsewhere = [
        name for place, name in enumerate(ours) if canonical(name) in alike and alike[place] != canonical(name)
    ]
    if elsewhere:
        raise UserError(
            f"{folder} has the labels {shown(theirs)}, {task.name} has {shown(ours)}, in another order and under other names: "
            f"name them as the checkpoint does, or list the task's in the checkpoint's order, task.label_names=[...]"
        )
    # Class names that are numbers, as in a data file, are the places of the outputs, so there is nothing to tell.
    if not all(canonical(name).isdecimal() for name in ours):
        print(f"{folder}: outputs {shown(theirs)} are taken for {shown(ours)}, in this order (task.label_names)")
