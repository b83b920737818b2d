"""Score by the share that was removed: of FLOPs, the paper's main figure, or of parameters."""

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
    """Draw a panel per task, the dense score as a dashed line; `table` are the rows of `aggregate` of one model.

    The paper's own curve stands beside a method's, in grey with open markers, if it has one for the same model and
    task. Cells that were asked for a speed-up are drawn at the share they removed.
    """
    return shares(table[table["target"].map(budget_of) != "parameters"], "flops_reduction", "FLOPs removed (%)")


def score_against_parameters(table: pd.DataFrame) -> Figure | None:
    """Draw the same of cells that were asked for fewer parameters, by the share of the layers' parameters."""
    return shares(table[table["target"].map(budget_of) == "parameters"], "params_reduction", "Parameters removed (%)")


def budget_of(target: str) -> str:
    """Return what a target is about: "flops", "parameters", ..."""
    return Target.parse(target).kind


def shares(table: pd.DataFrame, share: str, name: str) -> Figure | None:
    """Draw scores by the share in a column; cells of zeros among the weights, which removed none, are not drawn."""
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
    """Draw one task's curves."""
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
    """Return which of the paper's reductions lie within what was measured, half a step beyond it included."""
    return published.index.to_series().between(
        curve["flops_reduction"].min() - 0.025, curve["flops_reduction"].max() + 0.025
    )
