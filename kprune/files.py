"""Files and folders that are whole or as they were."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from kprune.errors import UserError, one_line

OTHER_FOLDER = "free the disk or give another folder"
OTHER_CACHE = "free the disk or set KPRUNE_CACHE to a folder of your own"
LONGEST_NAME = 255 - len(".-12345678-earlier")
"""Bytes of a folder's name, beside what `whole_folder` adds to it."""


def reachable(name: str) -> Path:
    """Return a path that can be looked up, whether or not anything is there.

    `~` is the home folder, even where the shell does not replace it (--output=~/small).

    Raises:
        UserError: the user after `~` is unknown, or for the reasons that `check_reachable` names.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} can't be reached ({one_line(error)}): check its spelling and permissions") from error
    check_reachable(path)
    return path


def check_reachable(path: Path) -> None:
    """Check that a path can be looked up, whether or not anything is there.

    Raises:
        UserError: a folder on the way may not be entered, a link leads to itself, or a name is too long or not in UTF-8.
    """
    try:
        str(path).encode()  # safetensors and tokenizers open files by names in UTF-8
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # of `stat`; of the encoding
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{path} can't be reached ({reason}): check its spelling and permissions") from error


def write_whole(path: Path, write: Callable[[Path], object], remedy: str = OTHER_FOLDER) -> None:
    """Let `write` fill a temporary file beside `path`, of the same suffix, and move it there.

    Raises:
        UserError: the folder is not writable, or the disk is full; the message ends with `remedy`.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise _not_written(path, error, remedy) from error


def write_text(path: Path, text: str) -> None:
    """Write a text to `path` by way of a temporary file beside it.

    Raises:
        UserError: for the reasons that `write_whole` names.
    """
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_readable(folder: Path) -> None:
    """Check that the user may list and open what is in a folder, if the folder exists.

    Raises:
        UserError: the user may not, or for the reasons that `check_reachable` names.
    """
    check_reachable(folder)
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder} is a folder that you may not read: change its permissions, or give another")


def check_movable(folder: Path) -> None:
    """Check that `whole_folder` can put another folder in the place of this one, which need not exist.

    Raises:
        UserError: the folder around it can't be written to, a name is too long, a disk is mounted at `folder`, this process works
            in it, or for the reasons that `check_reachable` names.
    """
    check_reachable(folder)
    place = Path(os.path.realpath(folder))
    if os.path.ismount(place):
        raise UserError(f"{folder} is a mount point, which can't be replaced: give a folder in it")
    if place.is_dir() and Path.cwd().is_relative_to(place):
        raise UserError(f"{folder} is or holds the working directory, which can't be replaced: give a folder in it")
    there = next(parent for parent in place.parents if os.path.exists(parent))  # Path.exists raises if it may not look
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} can't be made: {there} is no folder that you may write to; give another")
    if max(len(os.fsencode(name)) for name in place.relative_to(there).parts) > LONGEST_NAME:
        raise UserError(f"{folder} can't be made: a name in it has more than {LONGEST_NAME} bytes; give another")


@contextmanager
def whole_folder(
    folder: Path, remedy: str = OTHER_FOLDER, keep: Callable[[str], bool] = lambda name: False
) -> Iterator[Path]:
    """Yield a temporary folder to fill, which takes the place of `folder` when the context closes, or is removed after an error.

    Until then `folder` stays as it was; there is no time at which both the old and the new folder could be lost.

    Args:
        keep: tells of a name in `folder` whether it stays, unless there is a new one of that name.

    Raises:
        UserError: the folder around `folder` is not writable, or the disk is full; the message ends with `remedy`.
    """
    temporary = earlier = None
    folder = Path(os.path.realpath(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        temporary.chmod(0o755)
        yield temporary
        if folder.exists():
            for entry in folder.iterdir():
                if keep(entry.name) and not (temporary / entry.name).exists():
                    _link(entry, temporary / entry.name)
            earlier = temporary.with_name(f"{temporary.name}-earlier")
            folder.rename(earlier)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise _not_written(folder, error, remedy) from error
    finally:
        if earlier and earlier.exists() and not folder.exists():
            earlier.rename(folder)
        for left in (temporary, earlier):
            if left:
                shutil.rmtree(left, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """Make a file or a folder appear at another place of the disk, too."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a disk without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _not_written(path: Path, error: Exception, remedy: str) -> UserError:
    return UserError(f"{path} can't be written ({getattr(error, 'strerror', None) or one_line(error)}): {remedy}")
