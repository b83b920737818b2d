"""One process at a time: on a cell's folder, on a file that several processes add rows to, on what the cache keeps."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kprune.errors import UserError

LOCK = ".lock"
ATTEMPTS = 100


@contextlib.contextmanager
def locked_folder(folder: Path, remedy: str) -> Iterator[None]:
    """Let one process at a time work in a folder, which is made if it is not there; a second one waits.

    A folder that is left empty is removed, with its empty parents up to four.

    Raises:
        UserError: the folder can't be written to; with the remedy.
    """
    lock = _acquired(folder / LOCK, folder, remedy)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            (folder / LOCK).unlink()
            for empty in (folder, *folder.parents[:4]):
                empty.rmdir()
        lock.close()


@contextlib.contextmanager
def locked_file(file: Path, remedy: str) -> Iterator[None]:
    """Let one process at a time read, change and write a file, or make a folder of that name; a second one waits.

    Raises:
        UserError: its folder can't be written to; with the remedy.
    """
    path = file.with_name(f".{file.name}{LOCK}")
    lock = _acquired(path, file, remedy)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()


def _acquired(path: Path, what: Path, remedy: str) -> TextIO:
    try:
        return _wait_for(path)
    except OSError as error:
        raise UserError(f"{what} is not writable ({error.strerror}): {remedy}") from error


def _wait_for(lock: Path) -> TextIO:
    failures = 0
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = open(lock, "w")  # noqa: SIM115
        except (FileNotFoundError, FileExistsError):  # another process takes the empty folder away; or a real one
            failures += 1
            if failures == ATTEMPTS:
                raise
            continue
        fcntl.flock(held, fcntl.LOCK_EX)
        if _is_there(held, lock):
            return held
        held.close()  # whoever held it has removed it: the next one counts


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
