"""The one exception that a user is meant to read, and the checks of settings that raise it."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin


class UserError(Exception):
    """Something the user can mend. The message is one line: the cause, then the remedy.

    `run.py` prints it alone and exits with code 2.
    """


class OutOfReach(UserError):
    """A reduction beyond what the method can do on the model; a table asks first and shows a dash."""


def one_line(error: BaseException, length: int = 200) -> str:
    """Return what a foreign error says, in one line that is not too long; its kind if it says nothing."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def check_words(settings: Any) -> None:
    """Raises a UserError where a dataclass has a word that its field, a Literal, does not allow."""
    for entry in fields(settings):
        value, allowed = getattr(settings, entry.name), get_args(entry.type)
        if get_origin(entry.type) is Literal and value not in allowed:
            raise UserError(f"{entry.name}={value} is unknown: use {' or '.join(allowed)}")


def check_positive(**settings: float) -> None:
    """Raises a UserError where a setting is not a number above 0."""
    _check("a number above 0", settings, lambda value: isinstance(value, (int, float)) and 0 < value < float("inf"))


def check_not_negative(**settings: float) -> None:
    """Raises a UserError where a setting is not a number, 0 or above."""
    _check("0 or a number above", settings, lambda value: isinstance(value, (int, float)) and 0 <= value < float("inf"))


def check_count(**settings: int) -> None:
    """Raises a UserError where a setting is not a whole number above 0."""
    _check("a whole number above 0", settings, lambda value: isinstance(value, int) and value >= 1)


def check_whole(**settings: int) -> None:
    """Raises a UserError where a setting is not a whole number, 0 or above."""
    _check("a whole number, 0 or above", settings, lambda value: isinstance(value, int) and value >= 0)


def _check(wanted: str, settings: dict[str, Any], fits) -> None:
    for name, value in settings.items():
        if not fits(value):
            raise UserError(f"{name}={value} is out of range: give {wanted}")
