"""The rotary positions of a stock model, in config.json by the names of transformers 4, too."""

import copy
import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from kprune.files import write_text


def add_older_names(path: Path) -> None:
    """Add to a stock model's config.json what transformers 4, and what is built on it, reads of rotary positions.

    Transformers 5 writes `rope_parameters`, which transformers 4 ignores: it would compute with its defaults, without a warning. Nothing
    is added if the layers differ in their positions, or if transformers 5 would then read something else.
    """
    entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rope = entries.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return
    shared = {name: value for name, value in rope.items() if name in ("rope_theta", "partial_rotary_factor")}
    scaling = {name: value for name, value in rope.items() if name not in shared}
    both = entries | shared | ({} if rope.get("rope_type") == "default" else {"rope_scaling": scaling})
    # The config changes the dictionaries that it is made from.
    if CONFIG_MAPPING[entries["model_type"]].from_dict(copy.deepcopy(both)).rope_parameters == rope:
        write_text(path, json.dumps(both, indent=2, sort_keys=True) + "\n")
