"""A user's folders: a checkpoint by its config.json, and where a pruned model is to go. Needs no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kprune.errors import UserError, one_line
from kprune.files import check_movable, check_readable

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "model.gguf")
MODULES = "modules.json"
"""The file of sentence-transformers that says what is made of the model's output."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder that `save_pretrained` or kprune wrote.

    Attributes:
        architecture: class of the model, such as BertForSequenceClassification; with "Pruned" before it, kprune's.
        config: the content of config.json.
    """

    folder: Path
    architecture: str
    config: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Return the size of the weights on disk."""
        return sum(file.stat().st_size for file in _weights(self.folder))


def find_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder; nothing but its config.json is read.

    Raises:
        UserError: there is no such folder, it may not be read, or it holds no checkpoint of transformers.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: give one that save_pretrained wrote (hf download ID --local-dir FOLDER fetches a "
            f"model of the hub)"
        )
    check_readable(folder)
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder} has no config.json: give a folder that save_pretrained wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        architecture = (config.get("architectures") or [""])[0]
        if not isinstance(architecture, str):
            raise TypeError(f"architectures is {config['architectures']}")
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({one_line(error)}): save the checkpoint again") from error
    if not architecture:
        raise UserError(f"{file} does not say its model's class (architectures): save the checkpoint again")
    if (folder / MODULES).is_file():
        raise UserError(
            f"{folder} holds a model of sentence-transformers ({MODULES}), of which this command reads the encoder alone: prune it "
            "from Python, by kprune.prune(SentenceTransformer(FOLDER), batches) or kprune.prune(CrossEncoder(FOLDER), batches)"
        )
    if not _weights(folder):
        raise UserError(f"{folder} has no weights (model.safetensors): save the checkpoint again")
    return Checkpoint(folder, architecture, config)


def _weights(folder: Path) -> list[Path]:
    """Return the files of weights: safetensors if there are any."""
    found = ([file for file in folder.glob(pattern) if file.is_file()] for pattern in WEIGHTS)
    return next((files for files in found if files), [])


def check_output(folder: Path, checkpoint: Path) -> None:
    """Check that a folder can be made or replaced; `kprune.checkpoint.check_replaceable` looks into it.

    Raises:
        UserError: it is a file or the checkpoint's own folder, or for the reasons that `check_readable` and `check_movable` name.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file: give a folder")
    check_readable(folder)
    if folder.resolve() == checkpoint.resolve():
        raise UserError(f"--output {folder} is the checkpoint that is to be pruned: give another folder")
    try:
        check_movable(folder)
    except UserError as error:
        raise UserError(f"--output {error}") from error
