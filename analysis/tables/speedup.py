"""The paper's question to users: how much faster, for at most three points?"""

import numpy as np
import pandas as pd

from analysis import paper
from analysis.aggregate import informative
from analysis.render import MISSING, method_label, model_label, target_label, task_label, times, without_one_model
from analysis.tables.accuracy import by_method, compared

POINTS = 3.0
NOISE = 1.1
"""Factor by which the largest speed-up must exceed the second to be bold: a smaller difference may be the machine's noise."""


def speedup(table: pd.DataFrame) -> pd.DataFrame:
    """Show the measured speed-up of the fastest model that loses at most 3 points against the dense one, and its target.

    There is a row per `informative` task and model, and a column per retraining-free method; the best speed-up is bold if
    `clearly_best`. The last row of a model is the geometric mean over its tasks; a dash if a method lacks a task, or ran tasks in
    several versions. The paper's numbers, measured on another machine, have columns of their own.

    Args:
        table: rows of `aggregate`.
    """
    table = table[compared(table) & informative(table) & table["latency_speedup"].notna()]
    methods = [key for key, _ in by_method(table)]
    rows = []
    for model, of_model in table.groupby("model", sort=False):
        fastest = {key: [] for key in methods}
        published = {method: [] for method, settings in methods if not settings and method in paper.METHODS.values()}
        for task, of_task in of_model.groupby("task", sort=False):
            row = {"Task": task_label(task), "Model": model_label(model)}
            found = {key: within(of_task, *key) for key in methods}
            best = clearly_best([speed for speed, _ in found.values()])
            for key, (speed, target) in found.items():
                fastest[key].append(speed)
                shown = MISSING if np.isnan(speed) else times(speed)
                shown = f"**{shown}**" if speed == best else shown
                row[method_label(*key)] = shown if np.isnan(speed) else f"{shown} ({target_label(target)})"
            for method, speeds in published.items():
                speeds.append(paper.speedup(task, model, method))
                row[f"{method_label(method)}, paper"] = times(speeds[-1])
            rows.append(row)
        if of_model["task"].nunique() > 1:
            row = {"Task": f"geometric mean of {of_model['task'].nunique()}", "Model": model_label(model)}
            versions = of_model.groupby(["method", "settings"])["method_version"].nunique()
            row |= {
                method_label(*key): times(geometric(speeds) if versions.get(key, 0) <= 1 else np.nan)
                for key, speeds in fastest.items()
            }
            row |= {f"{method_label(method)}, paper": times(geometric(speeds)) for method, speeds in published.items()}
            rows.append(row)
    shown = pd.DataFrame(rows)
    empty = [name for name in shown if name.endswith(", paper") and (shown[name] == MISSING).all()]
    return without_one_model(shown.drop(columns=empty))


def within(of_task: pd.DataFrame, method: str, settings: str) -> tuple[float, str]:
    """Return speed-up and target of a method's fastest model that loses at most `POINTS`; (NaN, "") if none does."""
    models = of_task[(of_task["method"] == method) & (of_task["settings"] == settings)]
    models = models[models["score"] >= models["dense_score"] - POINTS]
    if models.empty:
        return np.nan, ""
    row = models.loc[models["latency_speedup"].idxmax()]
    return row["latency_speedup"], row["target"]


def clearly_best(speeds: list[float]) -> float | None:
    """Return the largest speed-up; None if there is none, or if it is less than `NOISE` times the second."""
    best, *others = sorted((speed for speed in speeds if not np.isnan(speed)), reverse=True) or [None]
    return None if others and best < NOISE * others[0] else best


def geometric(values: list[float | None]) -> float:
    """Return the geometric mean, NaN if a value is missing."""
    return float(np.exp(np.mean(np.log(np.array(values, dtype=float)))))
