"""The rotary positions of a stock model, in config.json by the names of transformers 4, too."""

import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from kprune.files import write_text
from kprune.models.config import config_from

BASE, SHARE = "rope_theta", "partial_rotary_factor"
"""Names of the base of the frequencies, and of the share of a head's columns that are rotated."""
OLDER_NAMES = {"gpt_neox": {BASE: "rotary_emb_base", SHARE: "rotary_pct"}}
"""By family, their names in transformers 4, if they are others."""


def add_older_names(path: Path) -> None:
    """Add to a stock model's config.json what transformers 4, and what is built on it, reads of rotary positions.

    Transformers 5 writes `rope_parameters`, which transformers 4 ignores: it would compute with its defaults, without a warning. Nothing
    is added if the layers differ in their positions, or if transformers 5 would then read something else.
    """
    entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rope = entries.get("rope_parameters")
    if not isinstance(rope, dict) or BASE not in rope:
        return
    family = CONFIG_MAPPING[entries["model_type"]]
    older = OLDER_NAMES.get(entries["model_type"], {})
    shared = {older.get(BASE, BASE): rope[BASE]}
    # Of a family that has no such share, transformers 4 would compute fewer frequencies than it reads.
    if SHARE in rope and SHARE in family().rope_parameters:
        shared[older.get(SHARE, SHARE)] = rope[SHARE]
    scaling = {name: value for name, value in rope.items() if name not in (BASE, SHARE)}
    both = entries | shared | ({} if rope.get("rope_type") == "default" else {"rope_scaling": scaling})
    if config_from(family, both).rope_parameters == rope:
        write_text(path, json.dumps(both, indent=2, sort_keys=True) + "\n")
