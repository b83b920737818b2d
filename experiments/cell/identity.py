"""The identity of a cell: its folder, and all settings and contents of files that its result depends on."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.config.cell import CellConfig
from experiments.config.evaluating import UNSAID
from experiments.inputs.checkpoints import (
    local_checkpoint,
    local_pretrained,
    tokenizer_files,
    weight_files,
    weights_sha256,
)
from experiments.store.results import PRETRAINED, cell_folder
from kprune.errors import UserError


def folder_of(config: CellConfig) -> Path:
    """Return the folder of a cell's result."""
    return cell_folder(
        config.outputs,
        config.task.name,
        config.model.name,
        config.method.name,
        config.variant.plain(),
        config.target,
        config.seed,
    )


def identity_of(config: CellConfig) -> dict[str, Any]:
    """Return everything that a cell's result depends on, as plain values: the entry `config` of its record.

    Settings with a value of `UNSAID`, a method's version 1, and FLOPs as the budget are left out, so that the identity equals that
    in records from before these settings existed.

    Raises:
        UserError: the folder of a checkpoint has no weights, or a file is not readable.
    """
    settings = {
        "task": _said(config.task.settings.plain(), "task."),
        "model": asdict(config.model),
        "method": _said(config.method.settings.plain(), "method."),
        "calibration": config.calibration.counted(),
        "seed": config.seed,
        "latency": config.latency and asdict(config.latency),
        **config.target.options(),
    }
    settings |= _said({name: getattr(config, name) for name in ("of", "grain", "uniform", "precision", "vocabulary")})
    if config.method.version != 1:
        settings["method_version"] = config.method.version
    files = contents(config)
    return settings | {"contents": files} if files else settings


def _said(settings: dict[str, Any], group: str = "") -> dict[str, Any]:
    return {name: value for name, value in settings.items() if UNSAID.get(f"{group}{name}", ...) != value}


def contents(config: CellConfig) -> dict[str, str]:
    """Return the SHA-256 of each file that a config names, and of the files of its checkpoint or else of its pretrained model.

    Files and models that are not on this machine are left out.

    Raises:
        UserError: the folder of a checkpoint has no weights, or a file is not readable.
    """
    task = config.task.settings.plain()
    named = {
        "task.train_file": task.get("train_file"),
        "task.evaluation_file": task.get("evaluation_file"),
        "calibration.file": config.calibration.file,
        "calibration.data": config.calibration.data,
        "vocabulary": config.vocabulary,
    }
    found = {name: sha256_of(path) for name, path in _files(named)}
    checkpoint = local_checkpoint(config.task.name, config.model.encoder, config.model.checkpoint)
    if checkpoint:
        name = "model.checkpoint" if config.model.checkpoint else "reference"
        found[name] = ",".join(sha256_of(file) for file in weight_files(checkpoint))
    elif checkpoint := local_pretrained(config.model.pretrained):
        name = PRETRAINED
        states = tuple((file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in weight_files(checkpoint))
        found[name] = _weights_sha256_of(checkpoint, states)
    if checkpoint:
        found[f"{name} (tokenizer)"] = _together(tokenizer_files(checkpoint))
        found[f"{name} (config.json)"] = _together([checkpoint / "config.json"])
    return found


def _files(named: dict[str, str | None]) -> Iterator[tuple[str, Path]]:
    for name, file in named.items():
        if file and (path := Path(file).expanduser()).is_file():
            yield name, path


def _together(files: list[Path]) -> str:
    """Return one hash of the names and contents of files; missing files are left out, since loading the model reports them."""
    parts = [f"{file.name} {sha256_of(file)}" for file in files if file.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return a short hash of a file; a file that is unchanged since the last call is not read again, as in the cells of a grid.

    Raises:
        UserError: the file is not readable.
    """
    state = os.stat(path)
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


@lru_cache
def _sha256_of(path: Path, size: int, modified_ns: int) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(
            f"{path} is not readable ({error.strerror}): give another file, or the right to read it"
        ) from error


@lru_cache
def _weights_sha256_of(folder: Path, states: tuple[tuple[Path, int, int], ...]) -> str:
    return weights_sha256(folder)
