"""Checkpoints: finding them, loading them, and the checks before one is used."""

from experiments.inputs.checkpoints.finding import (
    Checkpoint,
    find_checkpoint,
    find_pretrained,
    fingerprint,
    local_checkpoint,
    local_pretrained,
)
from experiments.inputs.checkpoints.loading import (
    check_padding,
    load_model,
    load_pretrained,
    load_tokenizer,
    output_order,
    positions_of,
)
from experiments.inputs.checkpoints.outputs import inverse, reorder
from experiments.inputs.checkpoints.weights import tokenizer_files, weight_files, weights_sha256

__all__ = [
    "Checkpoint",
    "check_padding",
    "find_checkpoint",
    "find_pretrained",
    "fingerprint",
    "inverse",
    "load_model",
    "load_pretrained",
    "load_tokenizer",
    "local_checkpoint",
    "local_pretrained",
    "output_order",
    "positions_of",
    "reorder",
    "tokenizer_files",
    "weight_files",
    "weights_sha256",
]
