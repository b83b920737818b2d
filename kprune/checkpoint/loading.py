"""Load a pruned model that `save` wrote."""

import json
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from kprune.checkpoint import modeling_kprune
from kprune.errors import UserError, one_line
from kprune.quiet import quiet_transformers


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
        architecture = (json.loads((folder / "config.json").read_text()).get("architectures") or [""])[0]
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{folder}/config.json is damaged ({error}): save the model again") from error
    if not architecture.startswith("Pruned") or not hasattr(modeling_kprune, architecture):
        raise UserError(f"{folder} holds '{architecture}', not a pruned model: load it with transformers")
    try:
        with quiet_transformers():
            model, info = getattr(modeling_kprune, architecture).from_pretrained(
                folder, dtype="float32", local_files_only=True, output_loading_info=True
            )
    except (SafetensorError, ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{folder} does not load ({one_line(error, 300)}): save it again with this kprune") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"]]
    if wrong:
        raise UserError(f"{folder}: config.json and model.safetensors disagree about {min(wrong)}: save it again")
    return model.eval()
