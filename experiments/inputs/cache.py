"""The folder where what is expensive to make is kept between runs."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kprune.errors import UserError


def cache_folder() -> Path:
    """`KPRUNE_CACHE`, or ~/.cache/kprune."""
    return Path(os.environ.get("KPRUNE_CACHE") or "~/.cache/kprune").expanduser()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time makes what is kept at `path`; a second one waits and finds it there.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.parent / f".{path.name}.lock", "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({error.strerror}): set KPRUNE_CACHE to a folder of your own"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
