"""Score against what it costs or brings: seconds of pruning, measured speed-up."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analysis import registry
from analysis.figures.style import (
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
from analysis.render import target_label, task_label
from analysis.tables.accuracy import compared

FULL = {"markeredgecolor": "black", "markeredgewidth": 0.6}
HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 1.6}


def score_against_seconds(table: pd.DataFrame) -> Figure | None:
    """Draw score by pruning time on a logarithmic axis: a panel per task and target; retrained methods have hollow markers.

    `table` are the rows of `aggregate` of one model. If there are retrained methods, their tasks and targets are shown;
    else of every task the target that most methods were measured at, of equals the hardest.
    """
    retrained = registry.retrained(table["method"])
    table = table[compared(table) | retrained]
    if retrained.any():
        place = pd.MultiIndex.from_frame(table[["task", "target"]])
        table = table[place.isin(place[registry.retrained(table["method"])])]
    if table.empty:
        return None
    if not retrained.any():
        methods = table.groupby(["task", "target"])["method"].transform("nunique")
        table = table[methods == methods.groupby(table["task"]).transform("max")]
        table = table[table["target"] == table.groupby("task")["target"].transform("last")]
    places = list(table.groupby(["task", "target"], sort=False))
    figure, axes = panels(len(places))
    looks = styles(methods_of(table))
    for axis, ((task, target), cells) in zip(axes, places, strict=True):
        dense_line(axis, cells)
        for row in cells.itertuples():
            look = looks[row.method, row.settings] | {"linestyle": "none"}
            face = HOLLOW | {"markeredgecolor": look["color"]} if registry.group(row.method) == "retrained" else FULL
            axis.errorbar(
                max(row.pruning_seconds, 1e-2),
                row.score,
                yerr=0 if pd.isna(row.score_std) else row.score_std,
                capsize=2,
                markersize=8,
                label=label((row.method, row.settings)),
                **look,
                **face,
            )
        axis.set_xscale("log")
        axis.margins(x=0.12)
        axis.set_xlim(10**limit for limit in at_least(tuple(map(math.log10, axis.get_xlim())), 2))
        axis.xaxis.set_minor_formatter(NullFormatter())
        dress(axis, f"{task_label(task)}, {target_label(target)}", "Pruning time (s)", score_label(cells))
    legend_below(figure, axes)
    return figure


def score_against_speedup(table: pd.DataFrame) -> Figure | None:
    """Draw score by measured speed-up: a panel per task, a curve per method; the dotted line is three points below dense."""
    return curves(table, "latency_speedup", "Measured speed-up (×)")


def score_against_tokens_per_second(table: pd.DataFrame) -> Figure | None:
    """Draw score by the tokens of a prompt that a language model reads in a second: a panel per task, a curve per method."""
    return curves(table, "latency_prefill_pruned", "Tokens of a prompt per second")


def curves(table: pd.DataFrame, column: str, name: str) -> Figure | None:
    """Draw score by a measurement, perplexities on a logarithmic axis and other scores with a line three points below dense."""
    table = table[compared(table) & table[column].notna()]
    if table.empty:
        return None
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = panels(len(tasks))
    looks = styles(methods_of(table))
    for axis, task in zip(axes, tasks, strict=True):
        of_task = table[table["task"] == task]
        dense_line(axis, of_task)
        if of_task["higher_is_better"].iloc[0]:
            axis.axhline(of_task["dense_score"].mean() - 3, color="0.35", linestyle=":", linewidth=1, label="dense − 3")
        else:
            axis.set_yscale("log")
        for (method, settings), look in looks.items():
            curve = of_task[(of_task["method"] == method) & (of_task["settings"] == settings)].sort_values(column)
            if not curve.empty:
                axis.plot(
                    curve[column], curve["score"], markersize=5, linewidth=1.4, label=label((method, settings)), **look
                )
        dress(axis, task_label(task), name, score_label(of_task))
    legend_below(figure, axes)
    return figure
