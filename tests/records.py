"""Records of made-up cells."""

from dataclasses import replace
from typing import Any

from experiments.store.record import Record

RECORD: dict[str, Any] = {
    "task": "mrpc",
    "model": "minilm",
    "method": "kprune",
    "variant": {},
    "seed": 0,
    "metric": "accuracy",
    "higher_is_better": True,
    "dense_score": 84.5,
    "score": 70.0,
    "evaluation": {
        "split": "validation",
        "examples": 8,
        "majority": 60.0,
        "sha256": "cd",
        "data": None,
        "window": None,
        "first_token": None,
    },
    "checkpoint": {"source": "reference", "sha256": "ab"},
    "flops_reduction_requested": 0.8,
    "flops_reduction": 0.8125,
    "params_reduction": 0.5,
    "kept_heads": [1, 0],
    "kept_neurons": [2, 1],
    "pruning_seconds": 12.5,
    "seconds_by_stage": {"knowledge": 7.5, "tuning": 5.0},
    "peak_memory_mb": 900.0,
    "calibration": {
        "examples": 10,
        "tokens": 512,
        "labels": False,
        "data": None,
        "texts": None,
        "window": None,
        "draw": None,
    },
    "latency": {
        "device": "a CPU",
        "batch_size": 32,
        "sequence_length": 128,
        "threads": 2,
        "dense_ms": 30.0,
        "pruned_ms": 10.0,
        "speedup": 3.0,
        "speedup_range": [2.9, 3.1],
        "prefill": None,
        "decoding": None,
    },
    "versions": {"torch": "2", "kprune": None},
    "commit": "c0ffee",
    "config": {"seed": 0},
    "details": {},
    "target": "0.8",
    "params_reduction_requested": None,
    "params_reduction_of_model": None,
    "device": None,
    "sparsity": None,
    "size": None,
    "vocabulary": None,
    "plan": {"0.attention": [3], "0.ffn": [0, 7], "1.attention": [], "1.ffn": [5]},
}
"""As in result.json."""


def record(**changes: Any) -> Record:
    """A record with some attributes of its own."""
    return replace(Record.from_json(RECORD), **changes)
