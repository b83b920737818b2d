"""Limit what a pass takes, and return freed memory that the C library holds."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kprune.models import ModelView

SMALL_PASS = 1024
"""Tokens of a pass on a CPU: the graph of BERT-base takes some 700 MB, and its products are large enough to be fast."""
GPU_PASS = 6e9
"""Bytes that the graph of a pass may take on a GPU, where small products take as long as large ones."""
KEPT_PER_FEATURE = 2.7
"""Numbers that a graph keeps of a token, over those of the features and hidden states of all blocks: measured on BERT-base."""
KEPT_PER_LOGIT = 4
"""Numbers that a graph keeps of a token, over its logits: the logits, what is read of them, its factor, and the gradient."""


def pass_tokens(view: "ModelView") -> int:
    """Return how many tokens, padding counted, a pass forward and backward through the whole model takes at once."""
    if view.device.type == "cpu":
        return SMALL_PASS
    head = view.model.get_output_embeddings()
    logits = 0 if head is None else len(head.weight)
    features = sum(block.columns + block.hidden_size for block in view.blocks)
    return max(SMALL_PASS, int(GPU_PASS / (4 * (KEPT_PER_FEATURE * features + KEPT_PER_LOGIT * logits))))


def release_freed_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    The C library keeps the pieces of backward passes over batches of different lengths, which the tensors of later batches don't fit
    into: a process would grow to several times what its tensors take.
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
