"""Checks of the values that a method's settings are given."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from kprune.errors import UserError

WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", NoneType: "None"}


def check_settings(settings: Any) -> None:
    """Check that each field of a dataclass, all of which have defaults, has a value of its type.

    Raises:
        UserError: one has not.
    """
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if fits(value, entry.type):
            continue
        if get_origin(entry.type) is Literal:
            raise UserError(f"{entry.name}={value} is unknown: use {described(entry.type)}")
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        raise UserError(f"{entry.name}={value} is not {described(entry.type)}: the default is {default}")


def check_positive(**settings: float) -> None:
    """Check that settings are numbers above 0.

    Raises:
        UserError: one is not.
    """
    _check("a number above 0", settings, lambda value: isinstance(value, (int, float)) and 0 < value < float("inf"))


def check_not_negative(**settings: float) -> None:
    """Check that settings are numbers, 0 or above.

    Raises:
        UserError: one is not.
    """
    _check("0 or a number above", settings, lambda value: isinstance(value, (int, float)) and 0 <= value < float("inf"))


def check_kinds(kinds: Sequence[str]) -> None:
    """Check that `kinds` is "auto", or names at least one kind of units that may go.

    Raises:
        UserError: it is empty.
    """
    if not kinds:
        raise UserError(f"kinds={kinds} lets nothing go: leave it out, or give a list of heads, neurons or both")


def check_count(**settings: int) -> None:
    """Check that settings are whole numbers above 0.

    Raises:
        UserError: one is not.
    """
    _check("a whole number above 0", settings, lambda value: isinstance(value, int) and value >= 1)


def check_whole(**settings: int) -> None:
    """Check that settings are whole numbers, 0 or above.

    Raises:
        UserError: one is not.
    """
    _check("a whole number, 0 or above", settings, lambda value: isinstance(value, int) and value >= 0)


def _check(wanted: str, settings: dict[str, Any], fits: Callable[[Any], bool]) -> None:
    for name, value in settings.items():
        if not fits(value):
            raise UserError(f"{name}={value} is out of range: give {wanted}")


def fits(value: Any, kind: Any) -> bool:
    """Tell whether a plain value is of a field's type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(fits(value, option) for option in get_args(kind))
    if get_origin(kind) is Sequence:
        return isinstance(value, (list, tuple)) and all(fits(entry, get_args(kind)[0]) for entry in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def described(kind: Any) -> str:
    """Return what a field takes, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(described, get_args(kind)))
    if get_origin(kind) is Sequence:
        return f"a list, each {described(get_args(kind)[0])}"
    return WORDS.get(kind) or f"a {kind.__name__}"
