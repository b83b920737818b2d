"""What a cell's variant ("key=value,...", "" for a method as its config file has it) says."""

import re

CALIBRATION = ("tokens", "examples", "file")
"""Keys that say what a method reads, not what it does."""

BUDGET = ("tokens", "examples")
"""Those of them that say how much."""

NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]\d+)?")
"""As Python's :g writes what is not negative."""


def separated(part: str) -> bool:
    """Whether a part of a variant is a setting; a budget is a number, or None beside a file."""
    key, sign, value = part.partition("=")
    return bool(sign) and (key != "tokens" or value == "None" or bool(NUMBER.fullmatch(value)))


def parts(variant: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in variant.split(",") if part)


def only_calibration(variant: str) -> str:
    return joined({key: value for key, value in parts(variant).items() if key in CALIBRATION})


def without_calibration(variant: str) -> str:
    return joined({key: value for key, value in parts(variant).items() if key not in CALIBRATION})


def without_budget(variant: str) -> str:
    return joined({key: value for key, value in parts(variant).items() if key not in BUDGET})


def joined(settings: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in settings.items())


def asked_tokens(variant: str) -> float:
    """The calibration budget of a variant; the config file's own, the paper's, counts as the largest, one in examples as none."""
    settings = parts(variant)
    tokens = settings.get("tokens", "0" if "examples" in settings else "None")
    return float("inf") if tokens == "None" else float(tokens)
