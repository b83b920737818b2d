"""The values that the K-prune paper reports for models and tasks that are measured here, too."""

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
"""The paper's name for each method. Its one K-prune is compared with each of our presets of K-prune that stand here."""


@cache
def values() -> pd.DataFrame:
    """Read the columns table, model, task, method (the paper's names), reduction, value (a score is in percent) and precision."""
    return pd.read_csv(FILE, comment="#")


def curve(task: str, model: str, method: str) -> pd.Series:
    """Return the paper's scores, indexed by the share of FLOPs removed; empty if it has none. The arguments are this project's names."""
    table = values()
    chosen = (
        (table["table"] == "accuracy_vs_flops")
        & (table["task"] == TASKS.get(task))
        & (table["model"] == MODELS.get(model))
        & (table["method"] == METHODS.get(method))
    )
    return table[chosen].set_index("reduction")["value"].sort_index()


def score(task: str, model: str, method: str, target: str) -> float | None:
    """Return the paper's score at a target, which is written as in a cell's path; None if the paper has no such score."""
    try:
        return float(curve(task, model, method)[float(target)])
    except (KeyError, ValueError):
        return None


def speedup(task: str, model: str, method: str) -> float | None:
    """Return the speed-up, on the paper's machine, of its fastest model that loses at most 3 points; None if the paper has none.

    The task and the model are this project's names, the method is the paper's.
    """
    table = values()
    chosen = (
        (table["table"] == "speedup_within_3_points")
        & (table["task"] == TASKS.get(task))
        & (table["model"] == MODELS.get(model))
        & (table["method"] == method)
    )
    return float(table[chosen]["value"].iloc[0]) if chosen.any() else None
