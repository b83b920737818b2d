"""Score against measured times: seconds of pruning, speed-up, tokens per second."""

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
    scale_perplexity,
    score_label,
    styles,
)
from analysis.render import target_label, task_label
from analysis.tables.accuracy import compared

FULL = {"markeredgecolor": "black", "markeredgewidth": 0.6}
HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 1.6}


def score_against_seconds(table: pd.DataFrame) -> Figure | None:
    """Draw score by pruning time on a logarithmic axis: a panel per task and target; retrained methods have hollow markers.

    If there are retrained methods, the tasks and targets that one of them was measured at are shown. If there are none, each task
    is shown at the target that most methods were measured at; if several targets have as many methods, at the last of these in
    the order of targets.

    Args:
        table: rows of `aggregate` for one model.

    Returns:
        The figure; None if no row is for it, as for all figures.
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
    """Draw score by measured speed-up: a panel per task, a curve per method; `table` and the result as of `score_against_seconds`."""
    return curves(table, {"Measured speed-up (×)": table["latency_speedup"]})


def score_against_tokens_per_second(table: pd.DataFrame) -> Figure | None:
    """Draw score by tokens per second that a language model reads and writes, relative to those of the dense model timed with it."""
    names = {"prefill": "Prompt, tokens/s over dense (×)", "decoding": "Generation, tokens/s over dense (×)"}
    return curves(
        table, {name: table[f"latency_{what}_pruned"] / table[f"latency_{what}_dense"] for what, name in names.items()}
    )


def curves(table: pd.DataFrame, measured: dict[str, pd.Series]) -> Figure | None:
    """Draw score by measurements: a panel per task and measurement, a curve per method.

    Perplexities are on a logarithmic axis; other scores have a dotted line three points below the dense score.

    Args:
        table: rows of `aggregate` for one model.
        measured: values for the rows of `table`, by the name of the axis.
    """
    shown = compared(table) & pd.DataFrame(measured).notna().all(axis=1)
    table = table[shown]
    if table.empty:
        return None
    places = [(task, name) for task in dict.fromkeys(table["task"]) for name in measured]
    figure, axes = panels(len(places))
    looks = styles(methods_of(table))
    for axis, (task, name) in zip(axes, places, strict=True):
        of_task = table[table["task"] == task].assign(measured=measured[name])
        dense_line(axis, of_task)
        if of_task["higher_is_better"].iloc[0]:
            axis.axhline(of_task["dense_score"].mean() - 3, color="0.35", linestyle=":", linewidth=1, label="dense − 3")
        for (method, settings), look in looks.items():
            curve = of_task[(of_task["method"] == method) & (of_task["settings"] == settings)].sort_values("measured")
            if not curve.empty:
                axis.plot(
                    curve["measured"],
                    curve["score"],
                    markersize=5,
                    linewidth=1.4,
                    label=label((method, settings)),
                    **look,
                )
        dress(axis, task_label(task), name, score_label(of_task))
        if not of_task["higher_is_better"].iloc[0]:
            scale_perplexity(axis, of_task)
    legend_below(figure, axes)
    return figure
