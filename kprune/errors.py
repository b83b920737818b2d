"""The one exception that a user is meant to read, how commands print it, and the checks of settings that raise it."""

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, Literal, ParamSpec, get_args, get_origin

P = ParamSpec("P")


class UserError(Exception):
    """Something the user can mend. The message is one line: the cause, then the remedy; of several mistakes, a line each.

    A command prints it alone and exits with code 2.
    """


class OutOfReach(UserError):
    """A reduction beyond what the method can do on the model; a table asks first and shows a dash."""


def command(main: Callable[P, int | None]) -> Callable[P, int]:
    """Make a function a command that returns its exit code: its own, 0 if it has none, 2 for a UserError, 130 if interrupted.

    Each line of the error is printed after `error: `.
    """

    @wraps(main)
    def run(*arguments: P.args, **settings: P.kwargs) -> int:
        try:
            return main(*arguments, **settings) or 0
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run


def one_line(error: BaseException, length: int = 200) -> str:
    """Return what a foreign error says, in one line that is not too long; its kind if it says nothing."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def check_words(settings: Any) -> None:
    """Check that a dataclass has only words that its fields, if they are Literals, allow.

    Raises:
        UserError: one does not.
    """
    for entry in fields(settings):
        value, allowed = getattr(settings, entry.name), get_args(entry.type)
        if get_origin(entry.type) is Literal and value not in allowed:
            raise UserError(f"{entry.name}={value} is unknown: use {' or '.join(allowed)}")


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
