"""The files that hold a checkpoint's weights."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kprune.errors import UserError, one_line

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards its index names.

    Raises:
        UserError: there are none, or only pickled ones.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{folder}/{INDEX} is damaged: copy the checkpoint again") from error
        files = [folder / Path(name).name for name in names]
        for file in files:
            if not file.is_file():
                raise UserError(f"{folder} has no {file.name}, which {INDEX} names: copy the checkpoint again")
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise UserError(f"{folder} has pickled weights only, and unpickling runs code: convert them to safetensors")
    raise UserError(f"{folder} has no {WEIGHTS}: give the folder of a complete checkpoint")


def check_weights(folder: Path) -> None:
    """Read every tensor once.

    Raises:
        UserError: a file is truncated, or a weight is NaN or infinite.
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
    """Of model.safetensors; of all shards in the order of their names where there are several."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
