"""What each setting of a config takes, checked before anything is loaded."""

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kprune.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A kind of value: its name in messages, an example as it is typed, and which values are of it."""

    name: str
    example: str
    holds: Callable[[Any], bool]


def whole(least: int, example: str, most: int | None = None) -> Kind:
    limit = 2**31 - 1 if most is None else most

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= limit

    return Kind(f"a whole number from {least}" + ("" if most is None else f" to {most}"), example, holds)


def number(example: str) -> Kind:
    def holds(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    return Kind("a finite number", example, holds)


def positive(example: str) -> Kind:
    return Kind("a number above 0", example, lambda value: number(example).holds(value) and value > 0)


def text(example: str) -> Kind:
    return Kind("text", example, lambda value: isinstance(value, str) and bool(value.strip()))


def one_of(*names: str) -> Kind:
    return Kind(f"one of {', '.join(names)}", names[0], lambda value: value in names)


def or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.name}, or null", kind.example, lambda value: value is None or kind.holds(value))


def texts(example: str) -> Kind:
    entry = text(example)
    return Kind("a list of texts", example, lambda value: isinstance(value, list) and all(map(entry.holds, value)))


def either(one: Kind, other: Kind) -> Kind:
    return Kind(f"{one.name} or {other.name}", one.example, lambda value: one.holds(value) or other.holds(value))


THREADS = whole(1, "2", most=1024)
FLAG = Kind("true or false", "true", lambda value: isinstance(value, bool))
TABLE = Kind("a table of settings", "{}", lambda value: isinstance(value, dict))

KINDS = {
    "budget": text("flops"),
    "flops_reduction": number("0.8"),
    "speedup": or_null(number("3")),
    "grain": whole(1, "16"),
    "seed": whole(0, "0"),
    "device": text("auto"),
    "threads": or_null(THREADS),
    "save_model": or_null(FLAG),
    "format": text("pruned"),
    "onnx": FLAG,
    "force": FLAG,
    "outputs": text("outputs"),
    "evaluate": or_null(text("FOLDER")),
    "latency.batch_size": whole(1, "32"),
    "latency.sequence_length": whole(1, "128"),
    "calibration.tokens": positive("100000"),
    "calibration.examples": or_null(whole(1, "2048")),
    "calibration.file": or_null(text("FILE")),
    "tracking.mode": one_of("offline", "online", "disabled"),
    "model.name": text("minilm"),
    "model.encoder": text("minilm-l6"),
    "model.pretrained": text("FOLDER"),
    "model.checkpoint": or_null(text("FOLDER")),
    "method.name": text("kprune"),
    "task.name": text("custom"),
    "task.kind": text("custom"),
    "task.max_length": whole(1, "128"),
    "task.batch_size": whole(1, "32"),
    "task.average_length": or_null(positive("53.24")),
    "task.finetuning": or_null(TABLE),
    "task.train_file": or_null(text("FILE")),
    "task.evaluation_file": or_null(text("FILE")),
    "task.text": either(text("[sentence]"), texts("[sentence]")),
    "task.label": text("label"),
    "task.label_names": or_null(texts("[no,yes]")),
    "task.stride": whole(0, "128"),
    "task.max_answer_length": whole(1, "30"),
    "task.no_answers": FLAG,
    "task.train_per_class": whole(1, "1500"),
    "task.evaluation_per_class": whole(1, "300"),
    "task.libraries": TABLE,
}
GROUPS = ("task", "model", "method", "calibration", "tracking", "latency")
OPEN = ("task", "method")
"""Groups with settings that are not named here: those of a method, which checks them itself, and of a task's kind."""


def check_settings(config: dict[str, Any]) -> None:
    """Every setting is there, known, and of its kind.

    Args:
        config: a cell's, as plain values.

    Raises:
        UserError: one is not.
    """
    for group in GROUPS:
        # Without a point to measure it at, there is no latency.
        if not isinstance(config.get(group), dict) and not (group == "latency" and config.get(group, "") is None):
            raise UserError(
                f"{group}={shown(config.get(group))} is no group of settings: give its settings by name, as in "
                f"{example_of(group)}"
            )
    given = dict(one_level_down(config))
    for name, value in given.items():
        if name in KINDS:
            check(name, value, KINDS[name])
        elif name.partition(".")[0] not in OPEN:
            near = difflib.get_close_matches(name, KINDS, n=1)
            raise UserError(
                f"{name} is unknown: " + (f"use {near[0]}" if near else "conf/config.yaml has the settings")
            )
    if config["calibration"].get("file") and config["calibration"].get("examples"):
        raise UserError("calibration.file has its examples already: leave calibration.examples out, or the file")
    for name in KINDS:
        group, _, leaf = name.partition(".")
        if (
            name not in given
            and (group not in OPEN or leaf == "name")
            and not (group == "latency" and config[group] is None)
        ):
            raise UserError(f"{name} is missing: give one, such as {name}={KINDS[name].example}")


def check(name: str, value: Any, kind: Kind) -> None:
    """Raises a UserError where a value is not of its kind."""
    if not kind.holds(value):
        raise UserError(f"{name}={shown(value)} is not {kind.name}: give one, such as {name}={kind.example}")


def one_level_down(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key in GROUPS:
            yield from ((f"{key}.{leaf}", entry) for leaf, entry in (value or {}).items())
        else:
            yield key, value


def example_of(group: str) -> str:
    name = next(name for name in KINDS if name.startswith(f"{group}."))
    return f"{name}={KINDS[name].example}"


def shown(value: Any) -> str:
    """As it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return " ".join(str(value).split())[:80]
