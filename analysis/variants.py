"""Read the parts of a cell's variant: "key=value,...", or "" if no setting differs from the config files."""

import re

from experiments.store.variant import variant_parts, variant_text
from kprune.target import NUMBER

CALIBRATION = ("tokens", "examples", "file", "data")
"""Keys of calibration settings: they say what a method reads, not what it does."""

BUDGET = ("tokens", "examples")
"""Keys of calibration settings that say how much a method reads."""


def is_setting(part: str) -> bool:
    """Tell whether a part of a variant is `key=value`; `tokens` must be a number, or None as beside a file."""
    key, sign, value = part.partition("=")
    return bool(sign) and (key != "tokens" or value == "None" or bool(re.fullmatch(NUMBER, value)))


def only_calibration(variant: str) -> str:
    """Return a variant's calibration settings alone."""
    return variant_text({key: value for key, value in variant_parts(variant).items() if key in CALIBRATION})


def without_calibration(variant: str) -> str:
    """Return a variant without its calibration settings."""
    return variant_text({key: value for key, value in variant_parts(variant).items() if key not in CALIBRATION})


def changed(variant: str) -> str:
    """Return a variant without its calibration settings and without the precision of passes."""
    return variant_text(
        {key: value for key, value in variant_parts(variant).items() if key not in (*CALIBRATION, "precision")}
    )


def without_budget(variant: str) -> str:
    """Return a variant without the size of its calibration set."""
    return variant_text({key: value for key, value in variant_parts(variant).items() if key not in BUDGET})


def asked_tokens(variant: str) -> float:
    """Return the calibration tokens of a variant, for sorting: 0 for a number of examples, infinity for the config file's own budget."""
    settings = variant_parts(variant)
    tokens = settings.get("tokens", "0" if "examples" in settings else "None")
    return float("inf") if tokens == "None" else float(tokens)
