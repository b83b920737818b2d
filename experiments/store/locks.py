"""Locks that let one process at a time work on a cell's folder, on a file that several processes add rows to, or in the cache."""

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
    """Let one process at a time work in a folder; a second process waits. A missing folder is made.

    A folder that is empty afterwards is removed, and so are up to four of its parents if they are empty.

    Raises:
        UserError: the folder can't be written to; the message ends with `remedy`.
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
    """Let one process at a time read and write a file or make a folder at the path `file`; a second process waits.

    Raises:
        UserError: the parent folder can't be written to; the message ends with `remedy`.
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
        except (FileNotFoundError, FileExistsError):  # another process removed the empty folder, or the error lasts
            failures += 1
            if failures == ATTEMPTS:
                raise
            continue
        fcntl.flock(held, fcntl.LOCK_EX)
        if _is_there(held, lock):
            return held
        held.close()  # the process that held this lock file has removed it, so lock the new one


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
