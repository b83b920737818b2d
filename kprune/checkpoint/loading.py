"""Load a pruned model that `save` wrote."""

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError

from kprune.checkpoint import format_1
from kprune.errors import UserError, one_line
from kprune.models import modeling_kprune
from kprune.models.modeling_kprune import PREFIX
from kprune.quiet import quiet_transformers
from kprune.types import Model


def load(folder: str | Path) -> Model:
    """Return the pruned model in a folder, float32, in evaluation mode.

    The class comes from the installed kprune, so no code in the folder is run.

    Raises:
        UserError: a file is missing or damaged, or the widths in config.json are not those of the weights.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: give a folder that kprune saved")
    kind = pruned_class_of(folder)
    try:
        with quiet_transformers():
            config = kind.config_class.from_pretrained(folder, local_files_only=True)
            format_1.convert(config)
            model, info = kind.from_pretrained(
                folder, config=config, dtype="float32", local_files_only=True, output_loading_info=True
            )
    except (SafetensorError, ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{folder} does not load ({one_line(error, 300)}): save it again with this kprune") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"]]
    if wrong:
        raise UserError(f"{folder}: config.json and model.safetensors disagree about {min(wrong)}: save it again")
    return model.eval()


def pruned_class_of(folder: Path) -> Any:
    """Return the class of the pruned model in a folder.

    Raises:
        UserError: config.json is damaged, or the folder holds something else.
    """
    try:
        architectures = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
        name = architectures[0]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/config.json is damaged ({error}): save the model again") from error
    known = isinstance(name, str) and name.startswith(PREFIX) and hasattr(transformers, name.removeprefix(PREFIX))
    if not known or not hasattr(modeling_kprune, name):
        raise UserError(f"{folder} holds '{name}', not a pruned model: load it with transformers")
    return getattr(modeling_kprune, name)
