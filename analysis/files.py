"""Files that are whole or as they were."""

import os
from collections.abc import Callable
from pathlib import Path

from kprune.errors import UserError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, of the same suffix, and move it there.

    Raises:
        UserError: the folder is not writable, or the disk full.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}): give another folder") from error


def write_text(path: Path, text: str) -> None:
    """As `write_whole`."""
    write_whole(path, lambda temporary: temporary.write_text(text))
