"""What identifies a cell: the settings that its result depends on, and which of them its folder names."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.config import budgets
from experiments.inputs.checkpoints import weight_files
from kprune.errors import UserError

# What does not change a result is not part of the configuration that identifies it.
NOT_IDENTITY = (
    "force",
    "tracking",
    "save_model",
    "format",
    "onnx",
    "outputs",
    "evaluate",
    "device",
    "threads",
    "hydra",
    "budget",
    "flops_reduction",
    "speedup",
    "grain",  # `budgets.identity` has those that count
)
FILES = ("task.train_file", "task.evaluation_file", "calibration.file", "model.checkpoint")


def identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """What of a config a result depends on; of files of one's own, their contents.

    Raises:
        UserError: the folder of a checkpoint has no weights, or a file is not readable.
    """
    settings = {key: value for key, value in config.items() if key not in NOT_IDENTITY} | budgets.identity(config)
    settings["calibration"] = calibration_of(config)
    files = contents(config)
    return settings | {"contents": files} if files else settings


def contents(config: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of each file that a config names, and of the weights of a checkpoint's folder; not of what is nowhere."""
    found = {}
    for name in FILES:
        group, leaf = name.split(".")
        path = Path(config[group].get(leaf) or "").expanduser()
        if path.is_file():
            found[name] = sha256_of(path)
        elif config[group].get(leaf) and path.is_dir():
            found[name] = ",".join(sha256_of(file) for file in weight_files(path))
    return found


def sha256_of(path: Path) -> str:
    """Short, and read once per state of the file: the cells of a grid share their files."""
    state = path.stat()
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


def variant_of(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Settings of the method and of the calibration set that are not their config files' own; widths rounded."""
    variant = {}
    counted = {"method": config["method"], "calibration": calibration_of(config)}
    for group, settings in counted.items():
        ours, theirs = flat(settings), flat(defaults[group])
        variant |= {key: value for key, value in ours.items() if value != theirs.get(key)}
    if variant.get("file"):
        variant["file"] = Path(variant["file"]).stem
    return variant | budgets.variant(config)


def calibration_of(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the calibration set that count: of `tokens`, nothing does where a number of `examples` is given."""
    settings = config["calibration"]
    return {key: value for key, value in settings.items() if key != "tokens"} if settings["examples"] else settings


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} to {"b": 1}: names are unique within a config file."""
    entries = {}
    for key, value in settings.items():
        entries |= flat(value) if isinstance(value, dict) else {key: value}
    return entries
