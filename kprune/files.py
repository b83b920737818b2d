"""Files that are whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path

from kprune.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there in one step.

    Raises:
        UserError: the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): free some space, or set KPRUNE_CACHE "
                        f"to a folder of your own") from error
    finally:
        temporary.unlink(missing_ok=True)
