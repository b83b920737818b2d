"""Cells on disk: the folder of a cell, whether the cell is finished, and how new files replace the earlier files."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.store.locks import locked_folder
from experiments.store.record import Record, plain
from experiments.store.variant import named
from kprune.errors import UserError
from kprune.files import write_whole
from kprune.target import Target

RESULT, RECORD, FILES = "result.json", "record.json", ("model", "predictions.npz")
"""A cell's files. The record is written as `RECORD` and renamed to `RESULT` last, because a cell with `RESULT` counts as finished."""
PRETRAINED = "pretrained"
"""The name of the pretrained model's contents in a configuration, and in a record the source of a checkpoint without fine-tuning."""
STAGE, READY, NAMES = ".new", ".ready", "names.json"
OTHER_OUTPUTS = "free the disk or give another outputs=FOLDER"


def cell_folder(
    outputs: str, task: str, model: str, method: str, variant: Mapping[str, Any], target: Target, seed: int
) -> Path:
    """Return outputs/<task>/<model>/<method>[+key=value,...]/<target>/seed<k>."""
    return Path(outputs, task, model, named(method, variant), str(target), f"seed{seed}")


def finished(folder: Path, config: dict[str, Any]) -> Record | None:
    """Return the record in a cell's folder; None if there is no record or a damaged one, of which a printed line tells.

    Raises:
        UserError: the record is of a cell with another configuration.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        record = Record.read(path)
    except UserError as error:
        print(error)
        return None
    stands = completed(record, config)
    if stands != config:
        name, was, now = first_difference(stands, config)
        raise UserError(
            f"{path} holds another configuration ({name} was {json.dumps(was)[:120]}, is {json.dumps(now)[:120]}): "
            "give another outputs=FOLDER or remove the folder"
        )
    return record


def completed(record: Record, config: dict[str, Any]) -> dict[str, Any]:
    """Return a record's configuration, completed with entries on the pretrained model, which older records lack.

    The hash of the weights is taken from the record if its checkpoint is the pretrained model; other entries are taken from `config`.
    """
    said, known = config.get("contents", {}), record.config.get("contents") or {}
    later = {name: value for name, value in said.items() if name.startswith(PRETRAINED) and name not in known}
    if later and record.checkpoint.source == PRETRAINED:
        later[PRETRAINED] = record.checkpoint.sha256
    return {**record.config, "contents": {**known, **later}} if later else record.config


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[str, Any, Any]:
    """Return the dotted name of the first setting that differs in two unequal configurations, and its two values; None if missing."""
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
    """Let one process at a time work on a cell; a second process waits, and then finds the cell finished.

    First, files that an interrupted process left ready are moved to their places. At the end, folders that are still empty are
    removed, for example after a wrong input.

    Raises:
        UserError: the folder can't be written to.
    """
    with locked_folder(folder, "give another outputs=FOLDER"):
        with _as_user_error(folder):
            _move_in(folder)
        yield


def write(folder: Path, record: Record, files: Mapping[str, Callable[[Path], object]]) -> None:
    """Write a cell's files and result.json; they replace all files of an earlier run.

    The files are first written to the folder `STAGE`, which is renamed to `READY` once it is complete. An interruption before
    the renaming leaves the earlier result; after an interruption behind it, the next `locked` moves the new files to their places.

    Args:
        folder: the folder of the cell.
        record: the record of the cell.
        files: by name of `FILES`, a function that writes the file or folder to a given path; it may write nothing.

    Raises:
        UserError: the disk is full, the folder is not writable, or a number of the record is not finite, so that the record could
            not be read again.
    """
    try:
        Record.from_json(record.to_json())
    except ValueError as error:
        raise UserError(
            f"{folder}: nothing is written, as a number of the record is not finite ({error}): remove less, or check the "
            "checkpoint's weights"
        ) from error
    stage = folder / STAGE
    with _as_user_error(folder):
        shutil.rmtree(stage, ignore_errors=True)  # what a killed run left
        try:
            stage.mkdir()
            for name, save in files.items():
                save(stage / name)
            names = [name for name in FILES if (stage / name).exists()]
            write_json(stage / NAMES, names)
            write_json(stage / RECORD, record)
            os.replace(stage, folder / READY)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        _move_in(folder)


def _move_in(folder: Path) -> None:
    """Move the files in `READY` to their places; a second call after an interruption continues the move."""
    ready = folder / READY
    if (ready / RECORD).is_file():
        names = json.loads((ready / NAMES).read_text())
        (folder / RESULT).unlink(missing_ok=True)  # first, so that half-moved files don't count as finished
        for name in FILES:
            if name not in names or (ready / name).exists():
                _remove(folder / name)
            if (ready / name).exists():
                os.replace(ready / name, folder / name)
        os.replace(ready / RECORD, folder / RESULT)
    shutil.rmtree(ready, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_user_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} can't be written to ({error.strerror}): {OTHER_OUTPUTS}") from error


def write_json(path: Path, content: Any) -> None:
    """Write plain values, records and targets as JSON, completely or not at all; NaN and infinities become null.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    text = json.dumps(plain(content), indent=1, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), OTHER_OUTPUTS)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of a cell, completely or not at all.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    write_whole(path, lambda temporary: temporary.write_bytes(content), OTHER_OUTPUTS)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: the file is missing, damaged or not readable.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or not readable: write it again") from error
