"""The columns of a cell's row, and the values that each may hold."""

import math
import re
from typing import Any

from analysis.pairing import DIFFERENCE
from analysis.variants import is_setting
from kprune.errors import UserError
from kprune.target import NUMBER, Target

TRAINING = ("training_examples", "training_epochs", "training_steps")

GENERATION = (
    "latency_prefill_dense",
    "latency_prefill_pruned",
    "latency_decoding_dense",
    "latency_decoding_pruned",
)
"""Tokens that a language model reads or writes in a second."""
SIZE = ("size_parameters_dense", "size_parameters_pruned", "size_megabytes_dense", "size_megabytes_pruned")
VOCABULARY = ("vocabulary_kept", "vocabulary_of", "vocabulary_missing", "vocabulary_growth")
LATER = (
    "evaluation_data",
    "evaluation_window",
    "evaluation_first_token",
    "params_reduction_of_model",
    "device",
    "sparsity",
    *GENERATION,
    *SIZE,
    *VOCABULARY,
)
"""Columns that older CSV files do not have."""

COLUMNS = (
    "task",
    "model",
    "method",
    "method_version",
    "variant",
    "seed",
    "metric",
    "higher_is_better",
    "dense_score",
    "score",
    "evaluation_split",
    "evaluation_examples",
    "evaluation_majority",
    "evaluation_sha256",
    "evaluation_data",
    "evaluation_window",
    "evaluation_first_token",
    "checkpoint_source",
    "checkpoint_sha256",
    "target",
    "lambda",
    "mu",
    "temperature",
    "tokens",
    "flops_reduction_requested",
    "flops_reduction",
    "params_reduction",
    "params_reduction_of_model",
    "sparsity",
    *SIZE,
    *VOCABULARY,
    "kept_heads",
    "kept_neurons",
    "device",
    "pruning_seconds",
    "peak_memory_mb",
    "calibration_examples",
    "calibration_tokens",
    *TRAINING,
    "latency_device",
    "latency_batch_size",
    "latency_sequence_length",
    "latency_threads",
    "latency_dense_ms",
    "latency_pruned_ms",
    "latency_speedup",
    *GENERATION,
    "torch",
    "transformers",
    "commit",
    *DIFFERENCE,
)
"""Scores are in percent, except perplexities; reductions are shares in [0, 1].

- `method_version`: version of the algorithm.
- `variant`: "key=value,...", or "" if no setting differs from the config files.
- `target`: the request, written as in the cell's path ("0.8", "p0.2", "2x", "s0.5", "2:4").
- `evaluation_data`, `evaluation_window` (tokens), `evaluation_first_token`: given for a perplexity alone.
- `lambda`, `mu`, `temperature`, `tokens`: the settings asked for, if the method has them.
- `sparsity`: share of zeros among the layers' weights; given for methods that set single weights to zero.
- `SIZE`: parameters, tied ones counted once, and megabytes of the weights in float32.
- `VOCABULARY`: given for a cut vocabulary; `vocabulary_missing` is a share of the evaluation set's tokens.
- `kept_heads`, `kept_neurons`: a number per layer, bottom to top, with spaces between.
- `device`: the device that the model was pruned on.
- `TRAINING`: of a method that trains, the examples in an epoch, and the epochs and optimizer steps of all stages together.
- `DIFFERENCE`: the score minus K-prune's on the same evaluation examples, and its 95 % interval, in points.
"""

NAMES = ("task", "model", "method", "metric", "target", "kept_heads", "kept_neurons")
"""Columns of text that every cell fills."""
TEXT = (
    *NAMES,
    "variant",
    "evaluation_split",
    "evaluation_sha256",
    "evaluation_data",
    "evaluation_first_token",
    "checkpoint_source",
    "checkpoint_sha256",
    "device",
    "latency_device",
    "torch",
    "transformers",
    "commit",
)
OPTIONAL = (
    "evaluation_majority",
    "evaluation_window",
    "params_reduction_of_model",
    "sparsity",
    *GENERATION,
    *SIZE,
    *VOCABULARY,
    "lambda",
    "mu",
    "temperature",
    "tokens",
    "flops_reduction_requested",
    "latency_batch_size",
    "latency_sequence_length",
    "latency_threads",
    "latency_dense_ms",
    "latency_pruned_ms",
    "latency_speedup",
    *TRAINING,
    *DIFFERENCE,
)
"""Columns of numbers that a cell may leave empty."""
NUMBERS = tuple(name for name in COLUMNS if name not in (*TEXT, "higher_is_better"))


def check(row: dict[str, Any]) -> None:
    """Check that each column of a row holds a value that `allowed` accepts.

    Raises:
        ValueError: a column does not; the message has the first such column and its value.
    """
    for name in COLUMNS:
        if not allowed(name, row[name]):
            raise ValueError(f"{name} is {row[name]!r}")


def allowed(name: str, value: Any) -> bool:
    """Tell whether a column may hold a value; None and NaN stand for a missing value."""
    if value is None or value != value:
        return name not in (*NAMES, "variant") and name in (*TEXT, *OPTIONAL)
    if name in NUMBERS:
        return is_number(value) and (name not in ("seed", "method_version") or value == int(value))
    if name not in TEXT:
        return isinstance(value, bool)
    if not isinstance(value, str):
        return False
    if name == "variant":
        return all(is_setting(part) for part in value.split(",") if part)
    if name == "target":
        return is_target(value)
    if name in ("kept_heads", "kept_neurons"):
        return bool(value.split()) and all(re.fullmatch(NUMBER, number) for number in value.split())
    return bool(value) or name not in NAMES


def is_target(text: str) -> bool:
    """Tell whether a text is a target, written as in a cell's path."""
    try:
        Target.parse(text)
    except UserError:
        return False
    return True


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
