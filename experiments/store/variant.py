"""The variant of a cell: the settings that its name tells beyond task, model, method, target and seed.

{"tokens": 2000} is written `tokens=2000`. Paths, identity, tracking and tables all use these functions.
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
    """Return the settings that differ from their defaults; a file is named without its folder and ending.

    Args:
        settings: the settings of the method and the calibration set, in groups; a setting's name is unique among all groups.
        defaults: the settings of their config files, in the same groups.
        grain: number of columns that widths are multiples of; default 1.
        uniform: whether all layers keep the same numbers of units; default False.
        of: the part of the model whose parameters are counted; default "layers".
        precision: the precision of the passes; default "full".
        vocabulary: the source of the tokens to keep; default None, which keeps all.
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
    """Return nested settings as a flat dict by the last part of their names: {"b": 1} for {"a": {"b": 1}}."""
    return {key.rpartition(".")[2]: value for key, value in flattened(settings).items()}


def flattened(settings: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Return nested settings as a flat dict by their dotted names: {"a.b": 1} for {"a": {"b": 1}}; an empty group stays {}."""
    entries = {}
    for key, value in settings.items():
        inner = flattened(value, separator) if isinstance(value, Mapping) else None
        entries |= {f"{key}{separator}{name}": entry for name, entry in inner.items()} if inner else {key: value}
    return entries


def variant_text(variant: Mapping[str, Any]) -> str:
    """Return a variant as the text `key=value,...`, sorted by key; "" if all settings are the defaults."""
    return ",".join(f"{key}={value_text(value)}" for key, value in sorted(variant.items()))


def variant_parts(text: str) -> dict[str, str]:
    """Return the keys and values of the text `key=value,...`; values stay text."""
    return dict(part.split("=", 1) for part in text.split(",") if part)


def named(method: str, variant: Mapping[str, Any]) -> str:
    """Return a method's name with its variant: `kprune`, or `kprune+mu=2,tokens=1000`."""
    text = variant_text(variant)
    return f"{method}+{text}" if text else method


def value_text(value: Any) -> str:
    """Return the text of one value: `0.0001`, `True`, or `a_b` for a list.

    A slash or comma becomes an underscore, because slashes separate folders and commas separate settings.
    """
    if isinstance(value, (list, tuple)):
        return "_".join(map(value_text, value))
    return (number_text(value) if isinstance(value, float) else str(value)).replace("/", "_").replace(",", "_")
