"""Cells of several seeds as one row."""

import pandas as pd

from analysis import names, paper
from analysis.columns import TRAINING
from analysis.pairing import DIFFERENCE
from analysis.variants import joined, only_calibration, parts, without_budget

GROUP = ["task", "model", "method", "settings", "target"]
MEANS = [
    "dense_score",
    "score",
    "evaluation_majority",
    "flops_reduction",
    "params_reduction",
    "pruning_seconds",
    "calibration_tokens",
    *TRAINING,
    "latency_dense_ms",
    "latency_pruned_ms",
    "latency_speedup",
    *DIFFERENCE,
]
PAPER_BUDGET = "tokens=100000"
MARGIN = 5.0
"""Points above the majority's score. A dense model that is closer has learnt little, and a loss against it is noise."""
FIRSTS = [
    "metric",
    *names.SENSITIVITY,
    *(f"latency_{name}" for name in ("device", "batch_size", "sequence_length", "threads")),
]


def aggregate(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per task, model, method, settings and target: means over seeds, `score_std`, `seeds`, the paper's score.

    `settings` are the variant's, see there. The ends of the interval against K-prune are means of the seeds' ends: the
    seeds share their evaluation examples, so that an interval of their mean difference is no wider.
    """
    cells = cells.assign(settings=settings(cells))
    groups = cells.groupby(GROUP, sort=False, dropna=False)
    table = groups[MEANS].mean().join(groups[FIRSTS].first())
    table["score_std"] = groups["score"].std()
    table["seeds"] = groups.size()
    table = table.reset_index()
    table["paper"] = [
        paper.score(row.task, row.model, row.method, row.target) if row.settings in ("", PAPER_BUDGET) else None
        for row in table.itertuples()
    ]
    table["paper"] = table["paper"].astype(float)
    order = [
        table["task"].map(lambda key: names.position(names.TASKS, key)),
        table["task"],
        table["model"].map(lambda key: names.position(names.MODELS, key)),
        table["model"],
        table["target"].map(target_order),
        table["method"].map(lambda key: names.position(names.METHODS, key)),
        table["method"],
        table["settings"],
    ]
    ranks = pd.concat(order, axis=1, ignore_index=True)
    return table.loc[ranks.sort_values(list(ranks.columns)).index].reset_index(drop=True)


def informative(table: pd.DataFrame) -> pd.Series:
    """Return for each row whether its task can show a loss: its dense model is at least `MARGIN` points above the majority's score.

    A task that has no majority's score counts as one that can.
    """
    return ~(table["dense_score"] - table["evaluation_majority"] < MARGIN)


def calibration_budget(table: pd.DataFrame) -> pd.Series:
    """The calibration tokens of each row as asked for; as drawn where a number of examples was."""
    return table["tokens"].astype(float).fillna(table["calibration_tokens"])


def settings(cells: pd.DataFrame) -> pd.Series:
    """The variant of each cell, without its calibration budget, and a retrained method's without its schedule, unless these are
    compared.

    They are where cells of one task, model and method differ in them alone; the method's cells of every task then keep
    them, so that a row of a table, a mean over tasks included, has one budget. What a retrained method was trained with stands
    in `TRAINING`.
    """
    retrained = cells["method"].isin(names.RETRAINED)
    short = cells["variant"].where(~retrained, cells["variant"].map(only_calibration)).map(without_budget)
    row = [cells[name] for name in ("model", "method")] + [short]
    cell = [*row, cells["task"], cells["target"], cells["seed"]]
    several = cells.groupby([key.to_numpy() for key in cell])["variant"].transform("nunique") > 1
    compared = several.groupby([key.to_numpy() for key in row]).transform("any")
    named = pd.Series([with_budget(cell) for cell in cells.itertuples()], cells.index)
    return named.where(compared, short)


def with_budget(cell) -> str:
    """A cell's variant with its calibration budget, whether or not the config file's own; a retrained method's as it is."""
    if cell.method in names.RETRAINED:
        return cell.variant
    settings = parts(cell.variant)
    if not set(settings) & {"tokens", "examples"} and not pd.isna(cell.tokens):
        settings["tokens"] = f"{cell.tokens:g}"
    return joined(settings)


def target_order(target: str) -> tuple[bool, float, str]:
    """Shares of FLOPs by size, then speed-ups by size."""
    speedup = target.endswith("x")
    try:
        return speedup, float(target.rstrip("x")), target
    except ValueError:
        return True, float("inf"), target
