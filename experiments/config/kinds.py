"""Kinds of values: which values a setting takes, and the message for a wrong value."""

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kprune.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A kind of value: its name in messages, an example as a user types it, and a function that tells whether a value fits."""

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


def path_name(example: str) -> Kind:
    """Describe a name that becomes part of a path."""
    return Kind(
        "a name of letters, digits, dots, dashes and underscores",
        example,
        lambda value: isinstance(value, str) and bool(re.fullmatch(r"\w[\w.-]*", value)),
    )


def one_of(*names: str) -> Kind:
    return Kind(f"one of {', '.join(names)}", names[0], lambda value: value in names)


def or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.name}, or null", kind.example, lambda value: value is None or kind.holds(value))


def texts(example: str) -> Kind:
    entry = text(example)
    return Kind("a list of texts", example, lambda value: isinstance(value, list) and all(map(entry.holds, value)))


def names(example: str) -> Kind:
    """Describe names of classes, which may be whole numbers."""
    entry = either(text(example), Kind("a whole number", example, lambda value: type(value) is int))
    kind = "a list of names (a name such as true or null, or one with a comma, in double quotes)"
    return Kind(
        kind, example, lambda value: isinstance(value, list) and len(value) > 1 and all(map(entry.holds, value))
    )


def either(one: Kind, other: Kind) -> Kind:
    return Kind(f"{one.name} or {other.name}", one.example, lambda value: one.holds(value) or other.holds(value))


THREADS = whole(1, "2", most=1024)
FLAG = Kind("true or false", "true", lambda value: isinstance(value, bool))
TABLE = Kind("a table of settings", "{}", lambda value: isinstance(value, dict))


def whole_numbers(text: str) -> list[int]:
    """Return the numbers of a text such as `1,8,32`; for `type=` of an argparse option.

    Raises:
        argparse.ArgumentTypeError: a part between commas is no whole number.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of whole numbers: give some, as 1,8,32") from None


def check(setting: str, value: Any, kind: Kind) -> None:
    """Check that the value of a setting is of its kind.

    Raises:
        UserError: the value is not of this kind.
    """
    if not kind.holds(value):
        raise UserError(f"{setting}={shown(value)} is not {kind.name}: give one, such as {setting}={kind.example}")


def shown(value: Any) -> str:
    """Return a value as a user types it on the command line, at most 80 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = " ".join(str(value).split())[:80]
    # A string that looks like a number was typed in quotes.
    return f'"{text}"' if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text) else text
