"""What a cell's variant ("key=value,...", "" for a method as its config file has it) says."""

CALIBRATION = ("tokens", "file")
"""Keys that say what a method reads, not what it does."""


def parts(variant: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in variant.split(",") if part)


def only_calibration(variant: str) -> str:
    return joined({key: value for key, value in parts(variant).items() if key in CALIBRATION})


def without_calibration(variant: str) -> str:
    return joined({key: value for key, value in parts(variant).items() if key not in CALIBRATION})


def without_tokens(variant: str) -> str:
    return joined({key: value for key, value in parts(variant).items() if key != "tokens"})


def joined(settings: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in settings.items())


def asked_tokens(variant: str) -> float:
    """The calibration budget of a variant; the config file's own, the paper's, counts as the largest."""
    return float(parts(variant).get("tokens", "inf"))
