"""Perplexities, and their ratios to K-prune+'s, with intervals over the windows that both methods were scored on."""

import numpy as np
import pandas as pd

from analysis import bootstrap
from analysis.aggregate import best_score, target_order
from analysis.pairing import paired_draws
from analysis.render import (
    MISSING,
    mean_and_deviation,
    method_label,
    model_label,
    number,
    target_label,
    task_label,
    without_one_model,
)
from analysis.tables.accuracy import compared

REFERENCES = ("kprune_plus", "kprune_plus_fast")
"""Methods whose perplexities are denominators of the ratios, each in a column of its own."""


def perplexity(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per task, model and method of the main comparison, and a column per target; the lowest perplexity of each is bold.

    The dense model is the first row. The methods are sorted by their perplexities at the first target; a method without one comes
    later, and is sorted by the next target.

    Args:
        table: rows of `aggregate`.
    """
    table = table[table["metric"].str.endswith("perplexity")]
    table = table[compared(table)]
    targets = sorted(table["target"].unique(), key=target_order)
    rows = []
    for (task, model), of_task in table.groupby(["task", "model"], sort=False):
        first = {"Task": task_label(task), "Model": model_label(model)}
        dense = number(of_task["dense_score"].mean())
        rows.append(first | {"Method": "dense"} | {target_label(target): dense for target in targets})
        best = {target: best_score(cells) for target, cells in of_task.groupby("target")}
        methods = []
        for (method, settings), cells in of_task.groupby(["method", "settings"], sort=False):
            cells = cells.set_index("target").reindex(targets)
            row = first | {"Method": method_label(method, settings)}
            row |= {target_label(cell.Index): shown(cell, best.get(cell.Index)) for cell in cells.itertuples()}
            methods.append((cells["score"].fillna(np.inf).tolist(), row))
        rows += [row for _, row in sorted(methods, key=lambda entry: entry[0])]
    made = pd.DataFrame(rows)
    return made.drop(columns=[name for name in ("Task", "Model") if rows and made[name].nunique() == 1])


def shown(cell, best: float | None) -> str:
    """Write a cell's perplexity, mean ± deviation over seeds, bold if it is `best`; a dash if there is none."""
    text = mean_and_deviation(cell.score, cell.score_std)
    return f"**{text}**" if number(cell.score) == number(best) != MISSING else text


def perplexity_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per task, model, target and method: its perplexity, and the ratios to those of `REFERENCES` at the same target.

    In brackets stands the 95 % interval of the ratio, if the losses of both methods' windows were kept: a paired bootstrap of their
    difference over the windows, and over the seeds that both have.

    Args:
        table: rows of `aggregate`.
    """
    table = table[table["metric"].str.endswith("perplexity")]
    rows = []
    for (task, model, target), cells in table.groupby(["task", "model", "target"], sort=False):
        references = cells[cells["method"].isin(REFERENCES)]
        for _, cell in cells.iterrows():
            row = {"Task": task_label(task), "Model": model_label(model), "Removed": target_label(target)}
            row |= {"Method": method_label(cell["method"], cell["settings"]), "Perplexity": number(cell["score"])}
            for _, reference in references.iterrows():
                name = method_label(reference["method"], reference["settings"])
                row[f"Over {name}'s"] = MISSING if reference.equals(cell) else over(cell, reference)
            rows.append(row)
    return without_one_model(pd.DataFrame(rows).fillna(MISSING))


def over(cell: pd.Series, reference: pd.Series) -> str:
    """Write the ratio of two perplexities, with its interval if there is one: 1.22 [1.18, 1.26]."""
    draws = paired_draws(cell, reference)
    if draws is None:
        return number(cell["score"] / reference["score"])
    with np.errstate(over="ignore"):
        # Points are hundredths; of a perplexity's logarithm, they are differences of losses.
        measured, low, high = bootstrap.interval(np.exp(draws / 100))
    return f"{number(measured)} [{number(low)}, {number(high)}]"
