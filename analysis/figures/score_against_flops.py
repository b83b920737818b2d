"""Score by share of FLOPs removed: the paper's main figure."""

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
    score_label,
    styles,
)
from analysis.render import method_label, task_label
from analysis.tables.accuracy import compared


def score_against_flops(table: pd.DataFrame) -> Figure | None:
    """Draw a panel per task, the dense score as a dashed line; `table` are the rows of `aggregate` of one model.

    The paper's own curve stands beside a method's, in grey with open markers, if it has one for the same model and
    task. Cells that were asked for a speed-up are drawn at the share they removed; those of zeros among the weights, which
    removed none, are not drawn.
    """
    table = table[compared(table) & ~masked(table)]
    if table.empty:
        return None
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = panels(len(tasks))
    looks = styles(methods_of(table))
    for axis, task in zip(axes, tasks, strict=True):
        panel(axis, table[table["task"] == task], looks)
    legend_below(figure, axes)
    return figure


def panel(axis: plt.Axes, of_task: pd.DataFrame, looks: dict[Method, dict]) -> None:
    """Draw one task's curves."""
    task, model = of_task[["task", "model"]].iloc[0]
    dense_line(axis, of_task)
    for (method, settings), look in looks.items():
        curve = of_task[(of_task["method"] == method) & (of_task["settings"] == settings)].sort_values(
            "flops_reduction"
        )
        if curve.empty:
            continue
        axis.errorbar(
            100 * curve["flops_reduction"],
            curve["score"],
            yerr=curve["score_std"].fillna(0),
            capsize=2,
            markersize=5,
            linewidth=1.4,
            label=label((method, settings)),
            **look,
        )
        published = paper.curve(task, model, method)
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
    dress(axis, task_label(task), "FLOPs removed (%)", score_label(of_task))


def within(published: pd.Series, curve: pd.DataFrame) -> pd.Series:
    """Return which of the paper's reductions lie within what was measured, half a step beyond it included."""
    return published.index.to_series().between(
        curve["flops_reduction"].min() - 0.025, curve["flops_reduction"].max() + 0.025
    )
