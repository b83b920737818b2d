"""Points lost, parameters and speed by the share that is removed, for a reader who has to choose a share."""

import numpy as np
import pandas as pd

from analysis import registry
from analysis.aggregate import informative, one_version, target_order
from analysis.render import method_label, model_label, number, percent, target_label, times, without_one_model
from analysis.tables.accuracy import compared


def trade(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per model, method of ours and target: points lost, parameters left and speed-up.

    A row is over the `informative` tasks that the method has at every one of its targets. Points lost and parameters are means
    over these tasks, with the points lost on the task that loses most; the speed-up is their geometric mean. A method that has
    cells of several versions is left out.

    Args:
        table: rows of `aggregate`.
    """
    table = table[registry.ours(table["method"]) & compared(table) & informative(table)]
    table = table.assign(loss=table["dense_score"] - table["score"])
    rows = []
    for (model, method, settings), cells in table.groupby(["model", "method", "settings"], sort=False):
        if not one_version(cells):
            continue
        targets = cells["target"].nunique()
        cells = cells[cells.groupby("task")["target"].transform("nunique") == targets]
        for target in sorted(cells["target"].unique(), key=target_order):
            at = cells[cells["target"] == target]
            row = {"Model": model_label(model), "Method": method_label(method, settings)}
            row |= {"Removed": target_label(target), "Tasks": str(len(at)), "Points lost": number(at["loss"].mean())}
            row |= {
                "At most": number(at["loss"].max()),
                "Layers' parameters": percent(1 - at["params_reduction"].mean()),
            }
            row["Speed-up"] = times(np.exp(np.log(at["latency_speedup"]).mean(skipna=False)))
            rows.append((registry.position(method), row))
    return without_one_model(pd.DataFrame([row for _, row in sorted(rows, key=lambda entry: entry[0])]))
