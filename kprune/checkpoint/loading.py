"""Load a pruned model that `save` wrote."""

import json
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from kprune.errors import UserError
from kprune.transformer import modeling_kprune


def load(folder: str | Path) -> nn.Module:
    """The pruned model in a folder, float32, in evaluation mode.

    The class comes from the installed kprune, so no code in the folder is run.

    Raises:
        UserError: a file is missing or damaged, or the widths in config.json are not those of the weights.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: give a folder that kprune saved")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise UserError(f"{folder}/config.json is damaged ({error}): save the model again") from error
    architecture = (config.get("architectures") or [""])[0]
    if not architecture.startswith("Pruned") or not hasattr(modeling_kprune, architecture):
        raise UserError(
            f"{folder} holds '{architecture}', not a model that kprune saved: run it with model.checkpoint={folder}"
        )
    try:
        model, info = getattr(modeling_kprune, architecture).from_pretrained(
            folder, dtype="float32", local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder} does not load ({' '.join(str(error).split())[:200]}): save the model again"
        ) from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *(entry[0] for entry in info["mismatched_keys"])]
    if wrong:
        raise UserError(
            f"{folder}: config.json and model.safetensors disagree about {sorted(wrong)[0]}: save the model again"
        )
    return model.eval()
