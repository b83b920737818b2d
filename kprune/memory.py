"""Memory that has been freed, and that the C library keeps."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Hand freed memory back to the system, where the C library can (glibc).

    It keeps the pieces of backward passes over batches of different lengths, which the next batches don't fit into: a process
    would grow by several times what its tensors take.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return None
