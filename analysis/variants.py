"""What a cell's variant ("key=value,...", "" for a method as its config file has it) says."""

import re

from experiments.store.variant import variant_parts, variant_text
from kprune.target import NUMBER

CALIBRATION = ("tokens", "examples", "file", "data")
"""Keys that say what a method reads, not what it does."""

BUDGET = ("tokens", "examples")
"""Those of them that say how much."""


def is_setting(part: str) -> bool:
    """Tell whether a part of a variant is a setting; a budget is a number, or None beside a file."""
    key, sign, value = part.partition("=")
    return bool(sign) and (key != "tokens" or value == "None" or bool(re.fullmatch(NUMBER, value)))


def only_calibration(variant: str) -> str:
    """Return what a variant says of the calibration set."""
    return variant_text({key: value for key, value in variant_parts(variant).items() if key in CALIBRATION})


def without_calibration(variant: str) -> str:
    """Return what a variant says of the method."""
    return variant_text({key: value for key, value in variant_parts(variant).items() if key not in CALIBRATION})


def changed(variant: str) -> str:
    """Return what a variant changes of the method's settings: neither what it reads nor the precision of its passes."""
    return variant_text(
        {key: value for key, value in variant_parts(variant).items() if key not in (*CALIBRATION, "precision")}
    )


def without_budget(variant: str) -> str:
    """Return a variant without the size of its calibration set."""
    return variant_text({key: value for key, value in variant_parts(variant).items() if key not in BUDGET})


def asked_tokens(variant: str) -> float:
    """Return the calibration budget of a variant: the config file's own, the paper's, counts as the largest, one in examples as none."""
    settings = variant_parts(variant)
    tokens = settings.get("tokens", "0" if "examples" in settings else "None")
    return float("inf") if tokens == "None" else float(tokens)
