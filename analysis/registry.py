"""Facts about methods for tables and figures, from the registry. A method that is not in the registry keeps its name and comes last."""

import pandas as pd

from baselines.registry import METHODS


def label(method: str) -> str:
    """Return the name of a method in tables and figures."""
    return METHODS[method].label if method in METHODS else method


def position(method: str) -> int:
    """Return the place of a method in the order in which tables show methods."""
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def group(method: str) -> str | None:
    """Return the group that a method belongs to, None for a method that is not in the registry."""
    return METHODS[method].group if method in METHODS else None


def retrained(methods: pd.Series) -> pd.Series:
    """Return which methods train on the whole training set."""
    return methods.map(group) == "retrained"


def reads_texts(methods: pd.Series) -> pd.Series:
    """Return which methods read the calibration set: all but the floors."""
    return methods.map(group) != "floor"


def ours(methods: pd.Series) -> pd.Series:
    """Return which methods are K-prune, K-prune+ and their presets."""
    return methods.map(group) == "ours"
