"""What stands beside `evaluate=FOLDER`: an option is used, says what the folder says anyway, or is refused.

A folder may be anybody's. Of what it says of its task, the name and known settings count alone; where the data come from,
a file of conf/task says.
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
"""Settings that are used; of `outputs`, that is the folder of a sweep."""
ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "save_model": (None, False),
    "onnx": (False,),
    "force": (False,),
    "latency": (None,),
    "tracking.mode": ("disabled",),
}
"""Values of options that have no use here, by which nothing is missed."""
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
"""Settings of a cell that its record has only if they are others, as records from before there was a choice."""
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
"""Settings of a task that a saved model's folder may change; files are taken if their contents are known (`contents`)."""
FILES = ("train_file", "evaluation_file")


@dataclass(frozen=True)
class Given:
    """An option as it was typed, with the settings that it stands for, as JSON."""

    typed: str
    settings: tuple[tuple[str, str], ...]

    def values(self) -> dict[str, Any]:
        return {name: json.loads(value) for name, value in self.settings}


def given_options(overrides: Sequence[str], config: Mapping[str, Any]) -> tuple[Given, ...]:
    """Return the options of a command line with what they came to in the composed config."""
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
    """Check that each option is used in scoring a saved model, or says what the model is.

    Args:
        cell: what identified the cell that the model was saved in, its task included; {} if that is not known.

    Raises:
        UserError: one is neither.
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
    """Return the task to score on: the saved one with what was given, or the one that was chosen in its place.

    Args:
        chosen: of the composed config.
        saved: settings that a folder has; None if it has none.
        given: the command line's options.
        contents: by the name of a setting in `saved`, whether that file is known to be what it was.

    Raises:
        UserError: no file of conf/task reads the data of the saved task, or its own files are not known.
    """
    ours, group = json.loads(chosen.settings.json), any("task" in _named(option.typed) for option in given)
    if saved is None or (group and any(ours.get(key) != saved.get(key) for key in SOURCE)):
        if ours.get("train_file") is None and ours.get("evaluation_file"):
            ours |= {"train_file": ours["evaluation_file"]} if "train_file" in ours else {}
        return TaskSettings(chosen.name, chosen.kind, Settings.of(ours))
    file = task_file_of(saved)
    if file is None:
        source = saved.get("hub_id") or saved.get("kind")
        raise UserError(f"its task reads {source}, and no file of conf/task does: give task=NAME")
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
        # What scores need of the training file, the classes' names, the folder has.
        settings["train_file"] = settings["train_file"] or settings["evaluation_file"]
        if not settings["train_file"]:
            raise UserError("its data file is not here as it was: give task=custom task.evaluation_file=FILE")
    return TaskSettings(settings["name"], settings["kind"], Settings.of(settings))


def _named(typed: str) -> list[str]:
    """Return the settings or groups that an option names; those in its files if it is an experiment."""
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
