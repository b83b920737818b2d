"""Cells on disk: where a result goes, when a cell is finished, and how its files take the place of earlier ones."""

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
"""A cell's files, `RESULT` last; while they are staged the record has the other name, since a finished cell is known by the first."""
PRETRAINED = "pretrained"
"""What a configuration calls the contents of a pretrained model, and a record the source of a checkpoint that is one."""
STAGE, READY, NAMES = ".new", ".ready", "names.json"
OTHER_OUTPUTS = "free the disk or give another outputs=FOLDER"


def cell_folder(
    outputs: str, task: str, model: str, method: str, variant: Mapping[str, Any], target: Target, seed: int
) -> Path:
    """Return outputs/<task>/<model>/<method>[+key=value,...]/<target>/seed<k>."""
    return Path(outputs, task, model, named(method, variant), str(target), f"seed{seed}")


def finished(folder: Path, config: dict[str, Any]) -> Record | None:
    """Read the record that stands in a cell's folder; None if there is none, or a damaged one (said in a line).

    Raises:
        UserError: the record is another configuration's.
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
    """Return a record's configuration; of a pretrained model that it says nothing of, as none did earlier, the weights that the record
    has, and the rest as `config` has it.
    """
    said, known = config.get("contents", {}), record.config.get("contents") or {}
    later = {name: value for name, value in said.items() if name.startswith(PRETRAINED) and name not in known}
    if later and record.checkpoint.source == PRETRAINED:
        later[PRETRAINED] = record.checkpoint.sha256
    return {**record.config, "contents": {**known, **later}} if later else record.config


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> tuple[str, Any, Any]:
    """Return the dotted name of the first setting that differs in two unequal configurations, and both values (None for none)."""
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
    """Let one process at a time work on a cell; a second one waits, and then finds it finished.

    Files that an interrupted process left ready to be moved are moved first. A cell that leaves nothing behind, as one with
    a wrong input does, takes its empty folders with it.

    Raises:
        UserError: the folder can't be written to.
    """
    with locked_folder(folder, "give another outputs=FOLDER"):
        with _as_user_error(folder):
            _move_in(folder)
        yield


def write(folder: Path, record: Record, files: Mapping[str, Callable[[Path], object]]) -> None:
    """Put a cell's files in the place of an earlier run's, at once: `files`, and result.json.

    All are written to a folder of their own, which is then renamed to one that says that it is whole. An interruption before
    the renaming leaves the earlier result, one after it the new result, which the next `locked` moves into its place.

    Args:
        files: what writes each of `FILES`, to the path that it is given; it may write nothing.

    Raises:
        UserError: the disk is full or the folder not writable, or a number of the record is not finite, so that it could not be
            read again.
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
    """Move what stands ready into its place; done again after an interruption, it goes on where it was."""
    ready = folder / READY
    if (ready / RECORD).is_file():
        names = json.loads((ready / NAMES).read_text())
        (folder / RESULT).unlink(missing_ok=True)  # first: without it the rest counts for nothing
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
    """Write plain values, records and targets as JSON, whole or not at all; null for what JSON has no number for.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    text = json.dumps(plain(content), indent=1, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), OTHER_OUTPUTS)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of a cell, whole or not at all.

    Raises:
        UserError: the disk is full or the folder not writable.
    """
    write_whole(path, lambda temporary: temporary.write_bytes(content), OTHER_OUTPUTS)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or not readable: write it again") from error
