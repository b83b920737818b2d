"""The one exception that a user is meant to read, and how commands print it."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

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
