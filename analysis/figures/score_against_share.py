"""Score by the share of FLOPs that was removed, as in the paper's main figure, or by the share of parameters."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from analysis import paper
from analysis.aggregate import masked
from analysis.figures.style import (
    Method,
    at_least,
    dense_line,
    dress,
    label,
    legend_below,
    methods_of,
    panels,
    scale_perplexity,
    score_label,
    styles,
)
from analysis.render import method_label, task_label
from analysis.tables.accuracy import compared
from kprune.target import Target


def score_against_flops(table: pd.DataFrame) -> Figure | None:
    """Draw score by the share of FLOPs removed: a panel per task, a curve per method, the dense score as a dashed line.

    If the paper has a curve of a method for the model and task, it is drawn, too, in grey with open markers. Cells that were
    asked for a speed-up are drawn at the share that they removed.

    Args:
        table: rows of `aggregate` for one model.
    """
    return shares(table[table["target"].map(budget_of) != "parameters"], "flops_reduction", "FLOPs removed (%)")


def score_against_parameters(table: pd.DataFrame) -> Figure | None:
    """Draw score by the share of the layers' parameters removed, for rows whose target is a share of parameters."""
    return shares(table[table["target"].map(budget_of) == "parameters"], "params_reduction", "Parameters removed (%)")


def budget_of(target: str) -> str:
    """Return the kind of a target: "flops", "parameters", ..."""
    return Target.parse(target).kind


def shares(table: pd.DataFrame, share: str, name: str) -> Figure | None:
    """Draw score by the share in a column, without rows that set single weights to zero: they remove no share.

    Args:
        table: rows of `aggregate` for one model.
        share: column of the share.
        name: label of the axis.
    """
    table = table[compared(table) & ~masked(table)]
    if table.empty:
        return None
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = panels(len(tasks))
    looks = styles(methods_of(table))
    for axis, task in zip(axes, tasks, strict=True):
        panel(axis, table[table["task"] == task], looks, share, name)
    legend_below(figure, axes)
    return figure


def panel(axis: plt.Axes, of_task: pd.DataFrame, looks: dict[Method, dict], share: str, name: str) -> None:
    """Draw the curves of one task's rows on `axis`, each with the look of its method; `share` and `name` as in `shares`."""
    task, model = of_task[["task", "model"]].iloc[0]
    dense_line(axis, of_task)
    for (method, settings), look in looks.items():
        curve = of_task[(of_task["method"] == method) & (of_task["settings"] == settings)].sort_values(share)
        if curve.empty:
            continue
        axis.errorbar(
            100 * curve[share],
            curve["score"],
            yerr=curve["score_std"].fillna(0),
            capsize=2,
            markersize=5,
            linewidth=1.4,
            label=label((method, settings)),
            **look,
        )
        published = paper.curve(task, model, method) if share == "flops_reduction" else pd.Series()
        # The paper's one K-prune, compared with both of ours, is drawn once.
        if not published.empty and not settings and method == paper.METHODS[method]:
            published = published[within(published, curve)]
            axis.plot(
                100 * published.index,
                published,
                color="0.6",
                marker=look["marker"],
                markerfacecolor="white",
                markersize=4,
                linewidth=1,
                linestyle=":",
                label=f"{method_label(method)}, paper",
            )
    axis.set_xlim(at_least(axis.get_xlim(), 20))
    axis.xaxis.set_major_locator(MultipleLocator(10))
    dress(axis, task_label(task), name, score_label(of_task))
    if not of_task["higher_is_better"].iloc[0]:
        scale_perplexity(axis, of_task)


def within(published: pd.Series, curve: pd.DataFrame) -> pd.Series:
    """Return which of the paper's reductions lie in the range of the measured ones, widened by half a step of the paper on each side."""
    return published.index.to_series().between(
        curve["flops_reduction"].min() - 0.025, curve["flops_reduction"].max() + 0.025
    )
