"""The folder that keeps expensive intermediate results between runs."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from experiments.store.locks import locked_file


def cache_folder() -> Path:
    """Return `KPRUNE_CACHE`, or ~/.cache/kprune."""
    return Path(os.environ.get("KPRUNE_CACHE") or "~/.cache/kprune").expanduser()


def locked(path: Path) -> AbstractContextManager[None]:
    """Let one process at a time make the file or folder `path` in the cache; a second process waits and then finds it.

    Raises:
        UserError: the folder can't be written to.
    """
    return locked_file(path, "set KPRUNE_CACHE to a folder of your own")
