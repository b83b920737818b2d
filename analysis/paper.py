"""The values that the paper reports, for the cells measured here on the same model and task."""

from functools import cache
from pathlib import Path

import pandas as pd

FILE = Path(__file__).parent / "paper_values.csv"
TASKS = {
    "mrpc": "MRPC",
    "qqp": "QQP",
    "sst2": "SST-2",
    "stsb": "STS-B",
    "squad": "SQuAD1.1",
    "squad_v2": "SQuAD2.0",
}
MODELS = {"bert_base": "bert-base", "distilbert": "distilbert"}
METHODS = {
    "kprune": "kprune",
    "kprune_two_lambdas": "kprune",
    "kprune_official": "kprune",
    "kprune_official_two_lambdas": "kprune",
    "kwon": "kwon",
    "kcm": "kcm",
}
"""Our method to the paper's. Its K-prune is compared with all of ours."""


@cache
def values() -> pd.DataFrame:
    """Read the paper's values, under its names: table, model, task, method, reduction, value (a score is in percent), precision."""
    return pd.read_csv(FILE, comment="#")


def curve(task: str, model: str, method: str) -> pd.Series:
    """Return the paper's score by share of FLOPs removed, for this project's names; empty if it has none."""
    table = values()
    chosen = (
        (table["table"] == "accuracy_vs_flops")
        & (table["task"] == TASKS.get(task))
        & (table["model"] == MODELS.get(model))
        & (table["method"] == METHODS.get(method))
    )
    return table[chosen].set_index("reduction")["value"].sort_index()


def score(task: str, model: str, method: str, target: str) -> float | None:
    """Return the paper's score at a target, written as in a cell's path; None if it has none."""
    try:
        return float(curve(task, model, method)[float(target)])
    except (KeyError, ValueError):
        return None


def speedup(task: str, model: str, method: str) -> float | None:
    """Return the paper's speed-up of the fastest model that loses at most 3 points, on its own machine; None if it has none."""
    table = values()
    chosen = (
        (table["table"] == "speedup_within_3_points")
        & (table["task"] == TASKS.get(task))
        & (table["model"] == MODELS.get(model))
        & (table["method"] == method)
    )
    return float(table[chosen]["value"].iloc[0]) if chosen.any() else None
