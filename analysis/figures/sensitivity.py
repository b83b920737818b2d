"""Score by the value of one setting of K-prune."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import names
from analysis.figures.style import METRICS, dress, legend_below, panels
from analysis.render import target_label, task_label
from analysis.tables.settings import curves, on_budget

LOOKS = (
    ("#000000", "o", "-"),
    ("#0072B2", "s", "--"),
    ("#D55E00", "^", "-."),
    ("#E69F00", "D", ":"),
    ("#009E73", "v", "-"),
)


def sensitivity(table: pd.DataFrame) -> Figure | None:
    """Draw score by the value of a setting: a panel per setting (λ, μ, γ, calibration tokens), a curve per task and target.

    The horizontal axes are logarithmic; if a value is 0, the axis is linear below the least positive value.

    Args:
        table: rows of `aggregate` for one model.
    """
    found: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    for (_, task, target, setting, budget), points in curves(table):
        label = f"{task_label(task)}, {target_label(target)}{on_budget(budget)}"
        found.setdefault(setting, []).append((label, points))
    if not found:
        return None
    figure, axes = panels(len(found))
    for axis, setting in zip(axes, [name for name in names.SENSITIVITY if name in found], strict=True):
        values = pd.concat([points[setting] for _, points in found[setting]])
        for (label, points), (color, marker, dash) in zip(found[setting], LOOKS * len(found[setting]), strict=False):
            axis.errorbar(
                points[setting],
                points["score"],
                yerr=points["score_std"].fillna(0),
                capsize=2,
                markersize=5,
                linewidth=1.4,
                label=label,
                color=color,
                marker=marker,
                # A line between two points alone would show values that were not measured.
                linestyle=dash if len(points) > 2 else "none",
            )
        if (values == 0).any():
            axis.set_xscale("symlog", linthresh=values[values > 0].min())
        else:
            axis.set_xscale("log")
        metrics = {METRICS.get(metric, metric) for _, points in found[setting] for metric in points["metric"]}
        dress(
            axis,
            names.SENSITIVITY[setting],
            names.SENSITIVITY[setting],
            metrics.pop() if len(metrics) == 1 else "Score",
        )
        if setting != "lambda":
            axis.set_xticks(sorted(set(values)), [f"{value:,g}" for value in sorted(set(values))], fontsize=8)
            axis.set_xticks([], minor=True)
    legend_below(figure, axes)
    return figure
