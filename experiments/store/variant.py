"""What of a cell's settings its name tells beyond task, model, method, target and seed: {"tokens": 2000} is `tokens=2000`.

The one rule for paths, identity, tracking and tables.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kprune.target import number_text


def variant_of(
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
    grain: int = 1,
    uniform: bool = False,
    of: str = "layers",
    precision: str = "full",
    vocabulary: str | None = None,
) -> dict[str, Any]:
    """Return the settings that differ from their config files' own.

    Args:
        settings, defaults: of the method and the calibration set, in groups; the names of the leaves are unique.
        grain: columns that widths are multiples of; told if it is not 1.
        uniform: whether all layers are kept alike; told if they are.
        of: whose parameters are counted; told if it is not the layers'.
        precision: of passes; told if it is not full.
        vocabulary: whose tokens are kept; told if not all are, a file by its name.
    """
    ours, theirs = leaves(settings), leaves(defaults)
    variant = {key: value for key, value in ours.items() if value != theirs.get(key)}
    for name in ("file", "data"):
        if variant.get(name):
            variant[name] = Path(variant[name]).stem
    options = {"grain": (grain, 1), "uniform": (uniform, False), "of": (of, "layers"), "precision": (precision, "full")}
    options["vocabulary"] = (vocabulary and Path(vocabulary).stem, None)
    return variant | {name: value for name, (value, usual) in options.items() if value != usual}


def leaves(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"b": 1} for {"a": {"b": 1}}."""
    return {key.rpartition(".")[2]: value for key, value in flattened(settings).items()}


def flattened(settings: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Return {"a.b": 1} for {"a": {"b": 1}}; a group without an entry stays as it is."""
    entries = {}
    for key, value in settings.items():
        inner = flattened(value, separator) if isinstance(value, Mapping) else None
        entries |= {f"{key}{separator}{name}": entry for name, entry in inner.items()} if inner else {key: value}
    return entries


def variant_text(variant: Mapping[str, Any]) -> str:
    """Write a variant as `key=value,...`, sorted by key; "" if the method is as its config files have it."""
    return ",".join(f"{key}={value_text(value)}" for key, value in sorted(variant.items()))


def variant_parts(text: str) -> dict[str, str]:
    """Read `key=value,...` into its parts, each value as text."""
    return dict(part.split("=", 1) for part in text.split(",") if part)


def named(method: str, variant: Mapping[str, Any]) -> str:
    """Return a method's name with its variant: `kprune`, or `kprune+mu=2,tokens=1000`."""
    text = variant_text(variant)
    return f"{method}+{text}" if text else method


def value_text(value: Any) -> str:
    """Write one setting: 0.0001, True, a_b for a list. A slash would part folders, and a comma two settings."""
    if isinstance(value, (list, tuple)):
        return "_".join(map(value_text, value))
    return (number_text(value) if isinstance(value, float) else str(value)).replace("/", "_").replace(",", "_")
