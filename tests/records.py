"""Records of made-up cells."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.scoring import predictions
from experiments.scoring.predictions import Predictions
from experiments.store import results
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


PREDICTED = Predictions("accuracy", np.array([True, False, True]))


def write_result(folder: Path, record: Record, predicted: Predictions = PREDICTED, model=None) -> Record:
    """Write a cell as the runner does; `model` writes the folder that it is given."""
    files = {"predictions.npz": lambda file: results.write_bytes(file, predictions.packed(predicted))}
    results.write(folder, record, files | ({"model": model} if model else {}))
    return record


FIRST_VERSION: dict[str, Any] = {
    "task": "mrpc",
    "model": "minilm",
    "method": "kprune",
    "variant": {},
    "seed": 0,
    "metric": "accuracy",
    "higher_is_better": True,
    "dense_score": 78.19,
    "score": 74.51,
    "evaluation": {"split": "validation", "examples": 408, "majority": 68.38, "sha256": "cd34"},
    "checkpoint": {"source": "mirror", "sha256": "ab12"},
    "flops_reduction_requested": 0.8,
    "flops_reduction": 0.8012,
    "params_reduction": 0.395,
    "kept_heads": [3, 2, 0],
    "kept_neurons": [100, 50, 20],
    "pruning_seconds": 12.34,
    "seconds_by_stage": {"knowledge": 9.0, "weight_tuning": 3.3},
    "peak_memory_mb": 900.0,
    "calibration": {"examples": 10, "tokens": 100000},
    "latency": {
        "device": "a CPU",
        "batch_size": 32,
        "sequence_length": 128,
        "threads": 2,
        "dense_ms": 100.0,
        "pruned_ms": 40.0,
        "speedup": 2.5,
    },
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "commit": None,
    "config": {},
    "details": {},
}
"""As in a result.json of version 1."""


def write_first_version(outputs: Path, predicted: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a result.json of version 1 below a folder and return its path.

    It tells the target by `flops_reduction_requested` and, without it, by its config. `predicted` are its predictions' arrays;
    without it there are none.
    """
    record = FIRST_VERSION | changes
    target = changes.get("target") or changes.get("flops_reduction_requested", 0.8)
    if target is None:
        target, record["config"] = "2x", {"budget": "latency", "speedup": 2, **record["config"]}
    variant = ",".join(f"{key}={value}" for key, value in record["variant"].items())
    method = f"{record['method']}+{variant}" if variant else record["method"]
    folder = outputs / record["task"] / record["model"] / method
    folder = folder / str(target) / f"seed{record['seed']}"
    folder.mkdir(parents=True)
    if predicted:
        np.savez_compressed(folder / "predictions.npz", **predicted)
    (folder / "result.json").write_text(json.dumps(record))
    return folder / "result.json"
