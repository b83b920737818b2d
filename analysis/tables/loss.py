"""What K-prune's family loses against the dense model, and how much of K-prune's loss that is."""

import pandas as pd

from analysis import registry
from analysis.aggregate import calibration_budget, informative, target_order
from analysis.pairing import REFERENCE
from analysis.render import MISSING, method_label, model_label, number, target_label, task_label, without_one_model
from analysis.variants import without_calibration

OFFICIAL = "kprune_official"


def loss(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per target and method with its settings, a column per task: points lost, means over seeds.

    A row that has every task of its model has their mean, too, and its ratio to the mean of K-prune and of its authors' code;
    of several of their calibration budgets, the largest that has a mean counts. Tasks that are not `informative` are shown,
    but are in no mean. `table` comes from `aggregate`.
    """
    table = table[registry.ours(table["method"]) & table["higher_is_better"].astype(bool)].assign(
        loss=table["dense_score"] - table["score"], budget=calibration_budget
    )
    tasks = list(dict.fromkeys(table["task"]))
    of_model = table[informative(table)].groupby("model")["task"].unique()
    rows = []
    for (model, target), cells in sorted(
        table.groupby(["model", "target"], sort=False), key=lambda entry: (entry[0][0], target_order(entry[0][1]))
    ):
        losses = cells.pivot_table(index=["method", "settings"], columns="task", values="loss", sort=False)
        means = losses.reindex(columns=of_model.get(model, [])).mean(axis=1, skipna=False)
        theirs = {method: reference(cells, means, method) for method in (REFERENCE, OFFICIAL)}
        for key in sorted(means.index, key=lambda key: (registry.position(key[0]), key)):
            row = {"Model": model_label(model), "FLOPs removed": target_label(target), "Method": method_label(*key)}
            row |= {task_label(task): number(losses.at[key, task]) if task in losses else MISSING for task in tasks}
            row["Mean"] = number(means[key])
            for method, mean in theirs.items():
                row[f"Of {method_label(method)}"] = number(means[key] / mean)
            rows.append(row)
    return without_one_model(pd.DataFrame(rows))


def reference(cells: pd.DataFrame, means: pd.Series, method: str) -> float:
    """Return the mean loss of a method as it is, on the largest calibration budget that has one; NaN if none is above 0."""
    plain = cells[(cells["method"] == method) & (cells["settings"].map(without_calibration) == "")]
    plain = plain[[pd.notna(means[method, settings]) for settings in plain["settings"]]]
    if plain.empty:
        return float("nan")
    mean = means[method, plain.loc[plain["budget"].idxmax(), "settings"]]
    return mean if mean > 0 else float("nan")
