"""Cells on disk: where a result goes, when a cell is finished, and how its record is written."""

import contextlib
import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from experiments.scoring import predictions
from experiments.scoring.predictions import Predictions
from kprune.errors import UserError
from kprune.files import write_whole

PACKAGES = ("kprune", "torch", "transformers", "datasets", "numpy")
LOCK, STAGE = ".lock", ".new"
OTHER_OUTPUTS = "free the disk or give another outputs=FOLDER"


@dataclass
class Result:
    """The record of one cell, `result.json`. Scores are in percent; reductions are shares, measured on the pruned model.

    `peak_memory_mb` is the GPU's or, on a CPU, the process's while the cell was run; None where the system can't tell.
    """

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
    flops_reduction_requested: float | None
    flops_reduction: float
    params_reduction: float
    kept_heads: list[float]
    kept_neurons: list[float]
    pruning_seconds: float
    seconds_by_stage: dict[str, float]
    peak_memory_mb: float | None
    calibration: dict[str, Any]
    latency: dict[str, Any] | None
    versions: dict[str, str | None]
    commit: str | None
    config: dict[str, Any]
    details: dict[str, Any]


def cell_folder(outputs: str, task: str, model: str, method: str, variant: dict, target: str, seed: int) -> Path:
    """outputs/<task>/<model>/<method>[+key=value,...]/<target>/seed<k>; the target is a reduction, or 3x."""
    suffix = ",".join(f"{key}={_compact(value)}" for key, value in sorted(variant.items()))
    return Path(outputs, task, model, f"{method}+{suffix}" if suffix else method, target, f"seed{seed}")


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
        stands, score, details = (record[key] for key in ("config", "score", "details"))
        if not (isinstance(stands, dict) and isinstance(score, (int, float)) and isinstance(details, dict)):
            raise ValueError("a part of another type")
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged: the cell is run again")
        return None
    if stands != config:
        name, was, now = first_difference(stands, config)
        raise UserError(
            f"{path} holds another configuration ({name} was {json.dumps(was)[:120]}, is {json.dumps(now)[:120]}): "
            "give another outputs=FOLDER or remove the folder"
        )
    return record


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[str, Any, Any]:
    """Dotted name of the first setting that differs in two unequal configurations, and both values; None for none."""
    key = next(
        key for key in sorted({**one, **other}) if one.get(key) != other.get(key) or (key in one) != (key in other)
    )
    was, now = one.get(key), other.get(key)
    if isinstance(was, dict) and isinstance(now, dict):
        name, was, now = first_difference(was, now)
        return f"{key}.{name}", was, now
    return key, was, now


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time works on a cell; a second one waits, and then finds it finished.

    A cell that leaves nothing behind, as one with a wrong input does, takes its empty folders with it.

    Raises:
        UserError: the folder can't be written to.
    """
    lock = _lock(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            (folder / LOCK).unlink()
            for empty in (folder, *folder.parents[:4]):
                empty.rmdir()
        lock.close()


def _lock(folder: Path, attempts: int = 100) -> TextIO:
    try:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = open(folder / LOCK, "w")
            except (FileNotFoundError, FileExistsError):  # another process takes the empty folder away; or a real one
                attempts -= 1
                if not attempts:
                    raise
                continue
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_there(lock, folder / LOCK):
                return lock
            lock.close()  # whoever held it has removed it: the next one counts
    except OSError as error:
        raise UserError(f"{folder} is not writable ({error.strerror}): give another outputs=FOLDER") from error


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def write_json(path: Path, content: dict[str, Any]) -> None:
    """As `write_whole`, with null for what JSON has no number for."""
    text = json.dumps(_plain(content), indent=1, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), OTHER_OUTPUTS)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null in their place."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or not readable: write it again") from error


def write(
    folder: Path, result: Result, predicted: Predictions, save_model: Callable[[Path], None] | None = None
) -> dict[str, Any]:
    """Put a cell's files in the place of an earlier run's: the model, `predictions.npz`, and `result.json` last.

    All are written in a folder of their own first, so that an earlier result outlives a full disk.

    Args:
        save_model: writes the pruned model to the folder that it is given, or writes nothing; None for no model.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    record, stage = asdict(result), folder / STAGE
    shutil.rmtree(stage, ignore_errors=True)  # what a killed run left
    try:
        stage.mkdir()
        if save_model:
            save_model(stage / "model")
        write_whole(
            stage / "predictions.npz", lambda file: file.write_bytes(predictions.packed(predicted)), OTHER_OUTPUTS
        )
        write_json(stage / "record.json", record)  # not by the name that a finished cell is known by
        clear(folder)
        for name in ("model", "predictions.npz"):
            if (stage / name).exists():
                os.replace(stage / name, folder / name)
        os.replace(stage / "record.json", folder / "result.json")
    except OSError as error:
        raise UserError(f"{folder} can't be written to ({error.strerror}): {OTHER_OUTPUTS}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return record


def clear(folder: Path) -> None:
    """Take an earlier run's record, predictions and model away; the record first: without it the rest counts for nothing."""
    for name in ("result.json", "predictions.npz"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "model", ignore_errors=True)


def versions() -> dict[str, str | None]:
    """Python's and the packages'; None for kprune where it runs from a checkout that is not installed."""
    return {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of this checkout, `-dirty` where tracked files are changed; None outside one or without git."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
