"""Options beside `evaluate=FOLDER`: an option is used, or repeats what the folder's record says, or is refused.

The folder may come from a stranger. From its description of the task, only the name and the settings in `FROM_FOLDER` are taken;
the source of the data is taken from a file of conf/task.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.config.composing import CONF, SOURCE, quoted, task_file_of
from experiments.config.groups import Settings, TaskSettings
from experiments.store.variant import flattened
from kprune.errors import UserError

USED = re.compile(r"evaluate|device|threads|outputs|task(\.(?!finetuning|train_split|average_length|calibration_).+)?")
"""Settings that are used when a saved model is scored; `outputs` is used in a sweep, as the folder of its results."""
ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "save_model": (None, False),
    "onnx": (False,),
    "force": (False,),
    "latency": (None,),
    "tracking.mode": ("disabled",),
}
"""Values of unused options that ask for nothing, so that they need not be refused."""
UNSAID = {
    "budget": "flops",
    "of": "layers",
    "grain": 1,
    "uniform": False,
    "calibration.data": None,
    "sparsity": None,
    "precision": "full",
    "vocabulary": None,
    "task.metric": None,
    "method.states": "device",
    "method.layers_on": None,
}
"""Settings that a cell's record omits if they have these values, so that its record equals one from before the setting existed."""
FROM_FOLDER = (
    "name",
    "text",
    "label",
    "choices",
    "passages",
    "relevant",
    "grades",
    "label_names",
    "problem",
    "metric",
    "max_length",
    "average_length",
    "batch_size",
    "evaluation_split",
    "stride",
    "max_answer_length",
    "no_answers",
    "window",
    "windows",
    "documents",
    "separator",
    "train_per_class",
    "evaluation_per_class",
)
"""Settings of a task that are taken from a saved model's folder; `FILES` are taken only if their contents are known."""
FILES = ("train_file", "evaluation_file")


@dataclass(frozen=True)
class Given:
    """An option as the user typed it, and the settings that it changes: pairs of dotted name and value in JSON."""

    typed: str
    settings: tuple[tuple[str, str], ...]

    def values(self) -> dict[str, Any]:
        return {name: json.loads(value) for name, value in self.settings}


def given_options(overrides: Sequence[str], config: Mapping[str, Any]) -> tuple[Given, ...]:
    """Return the options of a command line, each with the settings that it changes and their values in the composed config."""
    values = flattened(config)
    given = []
    for typed in overrides:
        names = _named(typed)
        found = [
            (leaf, json.dumps(value))
            for leaf, value in values.items()
            if any(leaf == name or leaf.startswith(f"{name}.") for name in names)
        ]
        given.append(Given(typed, tuple(found)))
    return tuple(given)


def refuse_unused(given: Sequence[Given], cell: Mapping[str, Any]) -> None:
    """Check that each option is used in scoring a saved model, or repeats a setting of the cell that saved the model.

    Args:
        given: the options beside `evaluate`.
        cell: the identity of the cell that saved the model, with its task; {} if the identity is not known.

    Raises:
        UserError: an option is neither used nor a repetition; the message names all of them.
    """
    known = {**UNSAID, **flattened(cell)} if cell else {}
    ignored = [
        option.typed
        for option in given
        for values in [option.values()]
        if not all(
            USED.fullmatch(name)
            or (name.startswith("task.") and "task" in _named(option.typed))
            or value in ASKS_NOTHING.get(name, ())
            or (name in known and known[name] == value)
            for name, value in values.items()
        )
    ]
    if ignored:
        raise UserError(f"{', '.join(ignored)} would be ignored: evaluate= scores a saved model as it is; leave it out")


def task_beside(
    chosen: TaskSettings, saved: Mapping[str, Any] | None, given: Sequence[Given], contents: Mapping[str, bool]
) -> TaskSettings:
    """Return the task to score on: the saved task with the given options, or the chosen task if the user asks for another one.

    Args:
        chosen: the task of the composed config.
        saved: the settings of the task in the saved model's folder; None if the folder has none.
        given: the options of the command line.
        contents: for each setting of `saved` that names a file, whether the file is known to be unchanged.

    Raises:
        UserError: no file of conf/task reads the data of the saved task, the saved task's own files are missing or changed, or
            a given training file would be ignored.
    """
    ours, group = json.loads(chosen.settings.json), any("task" in _named(option.typed) for option in given)
    if saved is None or (group and any(ours.get(key) != saved.get(key) for key in SOURCE)):
        if ours.get("train_file") is None and ours.get("evaluation_file"):
            ours |= {"train_file": ours["evaluation_file"]} if "train_file" in ours else {}
        return TaskSettings(chosen.name, chosen.kind, Settings.of(ours))
    file = task_file_of(saved)
    if file is None:
        source = saved.get("hub_id") or saved.get("kind")
        raise UserError(f"its task reads {source}, which no file of conf/task reads: give task=NAME")
    settings = {**file, **{name: saved[name] for name in FROM_FOLDER if name in file and name in saved}}
    settings |= {name: saved[name] for name in FILES if name in file and contents.get(name)}
    typed = {
        name: value for option in given if "task" not in _named(option.typed) for name, value in option.values().items()
    }
    settings |= {name.removeprefix("task."): value for name, value in typed.items() if name.startswith("task.")}
    if "train_file" in settings:
        other = "task.train_file" in typed and typed["task.train_file"] != saved.get("train_file")
        if other and settings["evaluation_file"] and "task.evaluation_file" not in typed:
            raise UserError(
                f"task.train_file={settings['train_file']} would be ignored, since scores are on "
                f"{settings['evaluation_file']}: give task.evaluation_file=FILE"
            )
        # Scores need only the names of the classes from the training file, and the folder has these names.
        settings["train_file"] = settings["train_file"] or settings["evaluation_file"]
        if not settings["train_file"]:
            raise UserError("its data file is missing or was changed: give task=custom task.evaluation_file=FILE")
    return TaskSettings(settings["name"], settings["kind"], Settings.of(settings))


def _named(typed: str) -> list[str]:
    """Return the settings or groups that an option names; for an experiment, the settings and groups that its files change."""
    option = OverridesParser.create().parse_override(quoted(typed))
    name, value = option.key_or_group, option.value()
    if name != "experiment":
        return [name]
    return [entry for file in (value if isinstance(value, list) else [value]) for entry in _of_experiment(file)]


def _of_experiment(name: str) -> list[str]:
    """Return the groups and settings that a file of conf/experiment changes."""
    content = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    groups = [key.removeprefix("override /") for entry in content.pop("defaults", []) for key in entry]
    return groups + list(flattened(content))
