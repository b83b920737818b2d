"""Result files as one table: a row a cell, a column a measurement."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.pairing import DIFFERENCE, differences
from kprune.errors import UserError

COLUMNS = (
    "task",
    "model",
    "method",
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
    "kept_heads",
    "kept_neurons",
    "pruning_seconds",
    "peak_memory_mb",
    "calibration_examples",
    "calibration_tokens",
    "latency_device",
    "latency_batch_size",
    "latency_sequence_length",
    "latency_threads",
    "latency_dense_ms",
    "latency_pruned_ms",
    "latency_speedup",
    "torch",
    "transformers",
    "commit",
    *DIFFERENCE,
)
"""`variant` is "key=value,..." ("" where there is none), `target` the request as in the cell's path ("0.8", "2x");
`lambda`, `mu`, `temperature` and `tokens` are the settings asked for, where the method has them; `kept_heads` and
`kept_neurons` are a number per layer, bottom to top, with spaces between. Scores are in percent, reductions shares.
`against_kprune` is the score minus that of K-prune on the same evaluation examples, with a 95 % interval."""

OPTIONAL = (
    "evaluation_majority", "lambda", "mu", "temperature", "tokens", "latency_batch_size", "latency_sequence_length",
    "latency_threads", "latency_dense_ms", "latency_pruned_ms", "latency_speedup",
)  # fmt: skip
"""Numbers that a cell may lack."""
KEY = ("task", "model", "method", "variant", "target", "seed")
TEXT = (
    "task", "model", "method", "variant", "target", "kept_heads", "kept_neurons", "commit", "torch", "transformers",
    "checkpoint_sha256", "evaluation_sha256",
)  # fmt: skip


def load(source: str | Path) -> pd.DataFrame:
    """The cells of an output folder, or of the CSV file that `analysis.collect` made of one.

    Raises:
        UserError: nothing is there, or nothing of this kind.
    """
    source = Path(source)
    if source.is_dir():
        cells = read_folder(source)
        if cells.empty:
            raise UserError(f"{source} holds no finished cell (no readable result.json): run one with python run.py")
        return cells
    if not source.is_file():
        raise UserError(f"{source} does not exist: give an output folder of run.py or a CSV file of analysis.collect")
    try:
        cells = pd.read_csv(source, dtype=dict.fromkeys(TEXT, str), keep_default_na=True)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{source} is not a CSV file of cells: {' '.join(str(error).split())}") from error
    missing = [name for name in COLUMNS if name not in cells]
    if missing:
        raise UserError(f"{source} lacks the column {missing[0]}: make it again with python -m analysis.collect")
    return cells.fillna(dict.fromkeys(("variant", "kept_heads", "kept_neurons"), ""))


def read_folder(folder: Path) -> pd.DataFrame:
    """Every result.json below a folder; a damaged one is named and left out."""
    rows, folders = [], []
    for path in sorted(folder.rglob("result.json")):
        try:
            rows.append(row(json.loads(path.read_text()), path))
            folders.append(path.parent)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{path} is damaged ({type(error).__name__}) and left out", file=sys.stderr)
    cells = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(OPTIONAL, float))
    cells[DIFFERENCE] = differences(cells, folders)
    return in_order(cells)


def in_order(cells: pd.DataFrame) -> pd.DataFrame:
    """Sorted, and each cell once: of two with the same key, as of two runs in one folder, the first is counted."""
    again = cells.duplicated(list(KEY))
    for _, cell in cells[again].iterrows():
        name = "/".join(str(cell[key]) for key in KEY if cell[key] != "")
        print(f"{name} is there twice and counted once", file=sys.stderr)
    return cells[~again].sort_values(list(KEY), ignore_index=True)


def row(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """One result.json as a flat row of `COLUMNS`."""
    nested = {
        f"{key}_{name}": value
        for key in ("evaluation", "checkpoint", "calibration", "latency")
        for name, value in (record[key] or {}).items()
    }
    flat = {name: record[name] for name in COLUMNS if name in record} | nested
    flat["variant"] = ",".join(f"{key}={compact(value)}" for key, value in sorted(record["variant"].items()))
    requested = record["flops_reduction_requested"]
    flat["target"] = path.parent.parent.name if requested is None else f"{requested:g}"
    for key in ("kept_heads", "kept_neurons"):
        flat[key] = " ".join(f"{number:g}" for number in record[key])
    flat |= asked(record["config"])
    flat |= {name: record["versions"].get(name) for name in ("torch", "transformers")}
    return {name: flat.get(name) for name in COLUMNS}


def asked(config: dict[str, Any]) -> dict[str, float | None]:
    """The settings that sensitivity is measured for."""
    method = config.get("method", {})
    lambdas = method.get("lambdas", [])
    return {
        "lambda": lambdas[0] if len(lambdas) == 1 else None,
        "mu": method.get("mu"),
        "temperature": method.get("knowledge", {}).get("temperature"),
        "tokens": config.get("calibration", {}).get("tokens"),
    }


def compact(value: Any) -> str:
    """A setting in a line: 0.0001, true, a_b for a list."""
    if isinstance(value, list):
        return "_".join(map(compact, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name and move, so that the file is whole or as it was.

    Raises:
        UserError: the folder is not writable, or the disk full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path} can't be written ({error.strerror}): give another folder") from error


def command(main: Callable[[], None]) -> int:
    """Run a command line; its exit code, 2 and one line where the user can mend what went wrong."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
