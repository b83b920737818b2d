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
    """Make a row per task, model and retraining-free method, a column per target; the best of a task and target in bold.

    The paper's scores are a row of their own under the method's, for the same model, task and targets. The last rows are
    each method's mean over the tasks, if it has them all, of methods that do so somewhere. `table` comes from `aggregate`.
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
    """Return which rows stand in the main comparison: not retrained, no ablation of K-prune, no point of its token curve.

    Of K-prune's calibration budgets, those stand that a competitor has too, and the largest.
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
    """Return groups of one method and its settings, in the order they are shown in."""
    groups = table.groupby(["method", "settings"], sort=False)
    return sorted(groups, key=lambda entry: (registry.position(entry[0][0]), entry[0]))


def line(method: str, scores: dict[str, str], targets: list[str]) -> dict[str, str]:
    """Return a method's scores by column."""
    return {"Method": method} | {target_label(target): scores.get(target, MISSING) for target in targets}


def means(table: pd.DataFrame, targets: list[str]) -> list[dict[str, str]]:
    """Return rows of each method's mean over all `informative` tasks of a model, if it has them all in one version; none if there is
    one task.
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
