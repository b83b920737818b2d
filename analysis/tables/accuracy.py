"""Scores by share of FLOPs removed, the main comparison."""

import pandas as pd

from analysis import paper, registry
from analysis.aggregate import best_score, calibration_budget, informative, target_order
from analysis.render import (
    MISSING,
    method_label,
    metric_label,
    model_label,
    number,
    score,
    target_label,
    task_label,
    without_one_model,
)
from analysis.variants import changed


def accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per task, model and retraining-free method, and a column per target; the best score of a task and target is bold.

    Below a method's row stand the paper's scores of it for the same model, task and targets. The last rows are those of `means`.

    Args:
        table: rows of `aggregate`.
    """
    table = table[compared(table)]
    targets = sorted(table["target"].unique(), key=target_order)
    rows = []
    for (task, model), of_task in table.groupby(["task", "model"], sort=False):
        best = {target: best_score(cells) for target, cells in of_task.groupby("target")}
        first = {
            "Task": f"{task_label(task)} ({metric_label(*of_task[['metric', 'evaluation_window']].iloc[0])})",
            "Model": model_label(model),
            "Majority": number(of_task["evaluation_majority"].mean()),
            "Dense": number(of_task["dense_score"].mean()),
        }
        for (method, settings), group in by_method(of_task):
            scores = {row.target: score(row, best[row.target]) for row in group.itertuples()}
            published = {row.target: number(row.paper) for row in group.itertuples() if pd.notna(row.paper)}
            rows.append(first | line(method_label(method, settings), scores, targets))
            # The paper's one K-prune, compared with both of ours, is shown once.
            if published and (method == paper.METHODS[method] or paper.METHODS[method] not in set(of_task["method"])):
                name = f"{method_label(paper.METHODS[method])}, paper"
                rows.append(first | {"Majority": "", "Dense": ""} | line(name, published, targets))
    return without_one_model(pd.DataFrame(rows + means(table, targets)))


def compared(table: pd.DataFrame) -> pd.Series:
    """Return which rows stand in the main comparison.

    Left out are retrained methods, and rows of our methods whose settings (other than calibration and precision) were changed. Of
    the calibration budgets of one of our methods at a target, the largest stands, and each that a method of others has, too, on
    the same task and model.
    """
    ours = registry.ours(table["method"])
    retrained = registry.retrained(table["method"])
    ablation = ours & (table["settings"].map(changed) != "")
    tokens = calibration_budget(table)
    fair = ~ours
    for _, cells in table[~ablation & ~retrained].groupby(["task", "model"], sort=False):
        theirs = tokens[cells.index][~ours[cells.index]]
        for _, budgets in tokens[cells.index][ours[cells.index]].groupby([cells["method"], cells["target"]]):
            fair[budgets.index] = (budgets == budgets.max()) | budgets.isin(theirs)
    return fair & ~ablation & ~retrained


def by_method(table: pd.DataFrame) -> list:
    """Return ((method, settings), its rows) for each method with its settings, in the order in which tables show them."""
    groups = table.groupby(["method", "settings"], sort=False)
    return sorted(groups, key=lambda entry: (registry.position(entry[0][0]), entry[0]))


def line(method: str, scores: dict[str, str], targets: list[str]) -> dict[str, str]:
    """Return the cells of a method's row by column: its name, and its score at each target or a dash."""
    return {"Method": method} | {target_label(target): scores.get(target, MISSING) for target in targets}


def means(table: pd.DataFrame, targets: list[str]) -> list[dict[str, str]]:
    """Return a row for each model and method: its mean score at each target over all `informative` tasks of the model.

    A mean is a dash if the method lacks a task at that target, or has tasks of several versions; a method without a mean has no
    row, and a model with one task has none.
    """
    rows = []
    for model, of_model in table[informative(table)].groupby("model", sort=False):
        tasks = of_model["task"].nunique()
        if tasks == 1:
            continue
        first = {"Task": f"mean of {tasks} tasks", "Model": model_label(model), "Majority": MISSING}
        first["Dense"] = number(of_model.groupby("task")["dense_score"].mean().mean())
        rows_of = of_model.groupby(["method", "settings", "target"])
        complete = rows_of["score"].mean()[(rows_of.size() == tasks) & (rows_of["method_version"].nunique() <= 1)]
        best = complete.groupby("target").max()
        for (method, settings), _ in by_method(of_model):
            scores = {}
            for target in targets:
                value = complete.get((method, settings, target))
                if value is not None:
                    shown = number(value)
                    scores[target] = f"**{shown}**" if shown == number(best[target]) else shown
            if scores:
                rows.append(first | line(method_label(method, settings), scores, targets))
    return rows
