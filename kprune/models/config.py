"""A transformers config from the values in its config.json."""

import copy
from typing import Any

NUMBERS = ("Infinity", "-Infinity", "NaN")
"""Numbers that JSON does not have, and that transformers writes as `{"__float__": "Infinity"}`."""


def config_from(kind: Any, values: dict[str, Any]) -> Any:
    """Return the config of a class with values as transformers writes them; they are not changed.

    Raises:
        Exception: the class refuses the values, by one of several types of exceptions.
    """
    return kind.from_dict(decoded(copy.deepcopy(values)))


def decoded(value: Any) -> Any:
    """Return a value of config.json with numbers in place of what transformers writes for those that JSON does not have."""
    if isinstance(value, dict):
        name = value.get("__float__") if len(value) == 1 else None
        return float(name) if name in NUMBERS else {key: decoded(entry) for key, entry in value.items()}
    return [decoded(entry) for entry in value] if isinstance(value, list) else value
