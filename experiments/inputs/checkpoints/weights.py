"""The files of a checkpoint: their paths, the shapes of their weights, and their hashes."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kprune.errors import UserError, one_line
from kprune.files import check_readable
from kprune.objectives import auto_class_for

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)


def weight_files(folder: Path) -> list[Path]:
    """Return the path of model.safetensors, or the paths of the shards that its index names.

    Raises:
        UserError: there are no weights or only pickled ones, a shard is missing, the index is damaged, or the folder can't be read.
    """
    check_readable(folder)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
            if any(Path(name).name != name for name in names):
                raise ValueError("a file that is not in the folder")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{folder}/{INDEX} is damaged: copy the checkpoint again") from error
        files = [folder / name for name in names]
        for file in files:
            if not file.is_file():
                raise UserError(f"{folder} has no {file.name}, which {INDEX} names: copy the checkpoint again")
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise UserError(
            f"{folder} has pickled weights only, and unpickling runs code: if you trust them, convert them to safetensors with "
            f'transformers.{_auto_class(folder)}.from_pretrained("{folder}").save_pretrained("NEW_FOLDER"), and copy the tokenizer'
        )
    raise UserError(f"{folder} has no {WEIGHTS}: give the folder of a complete checkpoint")


def _auto_class(folder: Path) -> str:
    """Return the name of transformers' auto class for a checkpoint's head; "AutoModel" if config.json does not tell."""
    try:
        name = str(json.loads((folder / CONFIG).read_text())["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        name = ""
    return auto_class_for(name) or "AutoModel"


def shapes_in(file: Path) -> list[list[int]]:
    """Return the shapes of the weights in a file, reading only its header.

    Raises:
        UserError: the file is truncated or no safetensors file.
    """
    try:
        with safe_open(file, framework="pt") as content:
            return [content.get_slice(name).get_shape() for name in content.keys()]  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({one_line(error)}): copy the checkpoint again") from error


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the paths of the files of a checkpoint's tokenizer, sorted by name."""
    return sorted({file for name in TOKENIZER for file in folder.glob(name)})


def check_weights(folder: Path) -> None:
    """Check that every tensor of a checkpoint can be read and is finite.

    Raises:
        UserError: a file is missing or truncated, or a weight is NaN or infinite.
    """
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    tensor = file.get_tensor(name)
                    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                        raise UserError(
                            f"{path}: {name} has values that are NaN or infinite: the checkpoint is "
                            f"damaged, give another"
                        )
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is damaged ({one_line(error)}): copy the checkpoint again") from error


def weights_sha256(folder: Path) -> str:
    """Return the hash of model.safetensors, or of all its shards in the order of their names."""
    return _sha256(weight_files(folder)).hexdigest()


def checkpoint_sha256(folder: Path) -> str:
    """Return one hash of the files that determine a model's predictions: weights, tokenizer and config.json."""
    others = [file for file in (*tokenizer_files(folder), folder / CONFIG) if file.is_file()]
    names = " ".join(file.name for file in others)
    return hashlib.sha256(f"{weights_sha256(folder)} {names} {_sha256(others).hexdigest()}".encode()).hexdigest()


def _sha256(files: list[Path]) -> "hashlib._Hash":
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest
