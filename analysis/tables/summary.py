"""Points that every method loses at one share of FLOPs: the small table of the README."""

import pandas as pd

from analysis.aggregate import informative, one_version
from analysis.render import (
    mean_and_deviation,
    method_label,
    model_label,
    number,
    task_label,
    without_one_model,
)
from analysis.tables.accuracy import compared

TARGET = "0.8"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per model and method at `TARGET`: points lost on each task ± deviation over seeds, and the mean over the tasks.

    Only `informative` tasks are shown, and only methods of the main comparison that ran all of these tasks in one version. The
    method with the least mean loss stands first.

    Args:
        table: rows of `aggregate`.
    """
    table = table[(table["target"] == TARGET) & informative(table) & compared(table)]
    rows = []
    for model, of_model in table.groupby("model", sort=False):
        tasks = list(dict.fromkeys(of_model["task"]))
        found = []
        for (method, settings), cells in of_model.groupby(["method", "settings"], sort=False):
            if set(cells["task"]) != set(tasks) or not one_version(cells):
                continue
            cells = cells.set_index("task")
            losses = cells["dense_score"] - cells["score"]
            row = {"Model": model_label(model), "Method": method_label(method, settings)}
            row |= {task_label(task): mean_and_deviation(losses[task], cells.at[task, "score_std"]) for task in tasks}
            found.append((losses.mean(), row | {"Mean": number(losses.mean())}))
        rows += [row for _, row in sorted(found, key=lambda entry: entry[0])]
    return without_one_model(pd.DataFrame(rows))
