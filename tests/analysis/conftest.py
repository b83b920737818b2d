"""Result files of made-up cells, laid out as run.py does."""

import json

import numpy as np
import pytest

RECORD = {
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


@pytest.fixture
def write_cell(tmp_path):
    """write_cell(score=70.0, ...) writes one result.json below tmp_path/outputs and returns its path.

    `predicted` are its predictions' arrays; without it there are none. The record is one of version 1, which tells the
    target by `flops_reduction_requested` and, without it, by its config.
    """

    def write(predicted=None, **changes):
        record = RECORD | changes
        target = changes.get("target") or changes.get("flops_reduction_requested", 0.8)
        if target is None:
            target, record["config"] = "2x", {"budget": "latency", "speedup": 2, **record["config"]}
        variant = ",".join(f"{key}={value}" for key, value in record["variant"].items())
        method = f"{record['method']}+{variant}" if variant else record["method"]
        folder = tmp_path / "outputs" / record["task"] / record["model"] / method
        folder = folder / str(target) / f"seed{record['seed']}"
        folder.mkdir(parents=True)
        if predicted:
            np.savez_compressed(folder / "predictions.npz", **predicted)
        (folder / "result.json").write_text(json.dumps(record))
        return folder / "result.json"

    return write


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"
