"""Cells on disk: where a result goes, when a cell is finished, and how its record is written."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kprune.errors import UserError

PACKAGES = ("torch", "transformers", "datasets", "numpy")


@dataclass
class Result:
    """The record of one cell, `result.json`. Scores are in percent; reductions are shares, measured on the pruned model."""

    task: str
    model: str
    method: str
    variant: dict[str, Any]
    seed: int
    metric: str
    higher_is_better: bool
    dense_score: float
    score: float
    evaluation: dict[str, Any]
    checkpoint: dict[str, Any]
    flops_reduction_requested: float
    flops_reduction: float
    params_reduction: float
    kept_heads: list[float]
    kept_neurons: list[float]
    pruning_seconds: float
    seconds_by_stage: dict[str, float]
    peak_memory_mb: float
    calibration: dict[str, Any]
    latency: dict[str, Any] | None
    versions: dict[str, str]
    commit: str | None
    config: dict[str, Any]
    details: dict[str, Any]


def cell_folder(outputs: str, task: str, model: str, method: str, variant: dict, reduction: float, seed: int) -> Path:
    """outputs/<task>/<model>/<method>[+key=value,...]/<reduction>/seed<k>."""
    suffix = ",".join(f"{key}={_compact(value)}" for key, value in sorted(variant.items()))
    return Path(outputs, task, model, f"{method}+{suffix}" if suffix else method, f"{reduction:g}", f"seed{seed}")


def _compact(value: Any) -> str:
    if isinstance(value, list):
        return "_".join(_compact(entry) for entry in value)
    return (f"{value:g}" if isinstance(value, float) else str(value)).replace("/", "_")


def finished(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The record that stands in a cell's folder; None where there is none, or a damaged one (said in a line).

    Raises:
        UserError: the record is another configuration's.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        stands = record["config"]
        record["score"]
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged: the cell is run again")
        return None
    if stands != config:
        key = next(key for key in sorted({**stands, **config}) if stands.get(key) != config.get(key))
        raise UserError(
            f"{path} holds another configuration ({key} was {json.dumps(stands.get(key))[:120]}): "
            "give another outputs=FOLDER or remove the folder"
        )
    return record


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time works on a cell; a second one waits, and then finds it finished.

    Raises:
        UserError: the folder can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{folder} is not writable ({error.strerror}): give another outputs=FOLDER") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write under a temporary name and move, so that the file is whole or not there.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    handle, temporary = None, None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(
            f"{path} can't be written ({error.strerror}): free the disk or give another outputs=FOLDER"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or not readable: write it again") from error


def write(folder: Path, result: Result) -> dict[str, Any]:
    """Write `result.json`, the last thing a cell does."""
    record = asdict(result)
    write_json(folder / "result.json", record)
    return record


def clear(folder: Path) -> None:
    """Take an earlier run's record and model away before the cell is run again."""
    (folder / "result.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "model", ignore_errors=True)


def versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


def commit() -> str | None:
    """The commit of this checkout; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
