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


def write_whole(path: Path, write: Callable[[Path], object], remedy: str = OTHER_FOLDER) -> None:
    """Let `write` fill a temporary file beside `path`, of the same suffix, and move it there.

    Raises:
        UserError: the folder is not writable, or the disk full; with the remedy.
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
    """As `write_whole`."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def whole_folder(folder: Path, remedy: str = OTHER_FOLDER) -> Iterator[Path]:
    """Give a folder to fill, which takes the place of `folder` at the end; nothing is left of it if that is not reached.

    Raises:
        UserError: it is not writable, or the disk full; with the remedy.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        temporary.chmod(0o755)
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise _not_written(folder, error, remedy) from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _not_written(path: Path, error: Exception, remedy: str) -> UserError:
    return UserError(f"{path} can't be written ({getattr(error, 'strerror', None) or one_line(error)}): {remedy}")
