"""The one exception that a user is meant to read, and how commands print it."""

import errno
import os
import sys
from collections.abc import Callable
from functools import wraps
from io import TextIOWrapper
from typing import ParamSpec, TextIO

P = ParamSpec("P")
FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(Exception):
    """Something the user can mend. The message is one line: the cause, then the remedy; of several mistakes, a line each.

    A command prints it alone and exits with code 2.
    """


class OutOfReach(UserError):
    """A reduction beyond what the method can do on the model; a table asks first and shows a dash."""


def command(main: Callable[P, int | None]) -> Callable[P, int]:
    """Turn a function into a command that returns an exit code: what the function returns, or 0 in place of None.

    After a UserError, it prints each line of the error behind `error: `, and returns 2; interrupted, it returns 130. If its output
    goes to a program that has ended, such as `head`, it prints no error, and returns 141, as a shell does; if the disk is full, it
    returns 2. A character that the terminal does not have is printed as Python escapes it.
    """

    @wraps(main)
    def run(*arguments: P.args, **settings: P.kwargs) -> int:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                return main(*arguments, **settings) or 0
            finally:
                sys.stdout.flush()  # while a failure can still be told
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            _discard(sys.stdout, sys.stderr)
            return 141
        except OSError as error:
            if error.errno not in FULL:
                raise
            _discard(sys.stdout)
            print(
                f"error: what is printed or saved can't be written ({error.strerror}): free the disk", file=sys.stderr
            )
            return 2

    return run


def _discard(*streams: TextIO) -> None:
    """Discard what streams still hold, which Python would try to write when it ends, and fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def one_line(error: BaseException, length: int = 200) -> str:
    """Return what a foreign error says, in one line that is not too long; its kind if it says nothing."""
    return " ".join(str(error).split())[:length] or type(error).__name__
