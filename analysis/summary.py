"""The two tables the README shows: what pruning costs in score, and in time."""

import pandas as pd

from analysis import names
from analysis.tables import number, percent, target_label, target_order

METHODS = ("kprune", "kprune_official")
TARGETS = ("0.6", "0.7", "0.8")


def chosen(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells of the two methods as their config files have them; of several calibration budgets, the largest.

    Means over seeds; one row per task, model, method and target, in the order they are shown in.
    """
    without_tokens = cells["variant"].str.replace(r"(^|,)tokens=[^,]*", "", regex=True).str.strip(",")
    cells = cells[cells["method"].isin(METHODS) & cells["target"].isin(TARGETS) & (without_tokens == "")]
    key = ["task", "model", "method", "target"]
    # A budget is the number asked for, so that the few tokens that seeds differ by do not count.
    budget = cells["variant"].str.extract(r"tokens=(\d+)", expand=False).astype(float).fillna(float("inf"))
    largest = budget.groupby([cells[name] for name in key]).transform("max")
    means = ["dense_score", "score", "flops_reduction", "pruning_seconds", "calibration_tokens", "latency_speedup"]
    groups = cells[budget == largest].groupby(key)
    table = groups[means].mean().join(groups["metric"].first()).reset_index()
    ranks = [
        table["task"].map(lambda name: names.position(names.TASKS, name)),
        table["model"].map(lambda name: names.position(names.MODELS, name)),
        table["method"].map(METHODS.index),
        table["target"].map(target_order),
    ]
    order = sorted(table.index, key=lambda row: tuple(rank[row] for rank in ranks))
    return table.loc[order].reset_index(drop=True)


def accuracy(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per task, a column per method and target; the last row is the mean over the tasks that lack no cell."""
    table = chosen(cells)
    several = table["model"].nunique() > 1
    labels, rows = [], []
    for (task, model), group in table.groupby(["task", "model"], sort=False):
        scores = {(row.method, row.target): row.score for row in group.itertuples()}
        suffix = f", {names.MODELS.get(model, model)}" if several else ""
        labels.append(f"{names.TASKS.get(task, task)} ({group['metric'].iloc[0]}{suffix})")
        wanted = [(method, target) for method in METHODS for target in TARGETS]
        rows.append([group["dense_score"].mean(), *(scores.get(cell) for cell in wanted)])
    columns = ["dense", *(f"`{method}` {target_label(target)}" for method in METHODS for target in TARGETS)]
    values = pd.DataFrame(rows, columns=columns, dtype=float)
    complete = values.dropna()
    count = "" if len(complete) == len(values) else f" of the {len(complete)} without gaps" if len(complete) else ""
    values.loc[len(values)] = complete.mean()
    shown = values.map(number)
    shown.insert(0, "Task", [*labels, f"**Mean**{count}"])
    return shown


def cost(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per task, method and target: FLOPs measured as removed, seconds, calibration tokens, speed-up."""
    table = chosen(cells)
    shown = pd.DataFrame(
        {
            "Task": table["task"].map(lambda name: names.TASKS.get(name, name)),
            "Model": table["model"].map(lambda name: names.MODELS.get(name, name)),
            "Method": "`" + table["method"] + "`",
            "Asked": table["target"].map(target_label),
            "FLOPs removed": table["flops_reduction"].map(percent),
            "Pruning": table["pruning_seconds"].map(lambda value: number(value, "{:.0f} s")),
            "Calibration tokens": table["calibration_tokens"].map(lambda value: number(value, "{:,.0f}")),
            "Speed-up": table["latency_speedup"].map(lambda value: number(value, "{:.2f}x")),
        }
    )
    return shown.drop(columns="Model") if table["model"].nunique() == 1 else shown
