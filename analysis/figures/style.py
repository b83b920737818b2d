"""Parts that all figures share: looks of methods, panels, legends, files."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # noqa: E402

from analysis import registry  # noqa: E402
from analysis.render import method_label  # noqa: E402
from kprune.files import write_whole

# Methods differ in marker and dash as well as in colour. The colours are Okabe and Ito's, a grey and a brown: their lightness differs.
COLORS = ("#CC79A7", "#999999", "#000000", "#0072B2", "#D55E00", "#E69F00", "#009E73", "#56B4E9", "#7F4A1E")
MARKERS = (
    *"*Hos^DvPX<>phd8",
    (4, 1, 0),
    (6, 1, 0),
    (3, 1, 0),
    (5, 1, 0),
    (8, 1, 0),
    (5, 2, 0),
    (7, 2, 0),
    (8, 2, 0),
    (3, 2, 0),
    (6, 2, 0),
    (4, 2, 0),
)
DASHES = ("-", "--", "-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
METRICS = {
    "accuracy": "Accuracy (%)",
    "f1": "F1 (%)",
    "micro_f1": "Micro F1 (%)",
    "macro_f1": "Macro F1 (%)",
    "entity_f1": "Entity F1 (%)",
    "spearman": "Spearman × 100",
    "ndcg@10": "nDCG@10 × 100",
    "mrr@10": "MRR@10 × 100",
    "matthews": "Matthews × 100",
}
RUINED = 6
"""Factor of the dense perplexity at which the axis of perplexities ends: pruning by magnitude reaches thousands of times that."""
CHARACTER, HANDLE, ENTRY = 0.075, 0.6, 0.19  # inches: a legend's letter and line (widths), entry (height)
PANEL = (3.3, 2.7)  # inches
COLUMNS = 3

Method = tuple[str, str]
"""A method and its settings."""


def methods_of(table: pd.DataFrame) -> list[Method]:
    """Return the methods and settings of a table, in the order in which figures show them."""
    found = {(row.method, row.settings) for row in table.itertuples()}
    return sorted(found, key=lambda key: (registry.position(key[0]), key))


def styles(methods: list[Method]) -> dict[Method, dict]:
    """Return the marker, dash and colour of each method with its settings, as arguments of `Axes.plot`.

    A method has its own colour in every figure; if an earlier method of this figure has the same colour, it gets a free one. The
    first settings of a method have the method's own marker, its further settings get free ones.
    """
    known = list(registry.METHODS)
    own = {method: known.index(method) if method in known else len(known) for method, _ in methods}
    free = iter([index for index in range(100) if index not in own.values()])
    colors: dict[str, str] = {}
    for method, place in own.items():
        if COLORS[place % len(COLORS)] not in colors.values():
            colors[method] = COLORS[place % len(COLORS)]
    left = iter([color for color in COLORS if color not in colors.values()])
    colors = {method: colors.get(method) or next(left, COLORS[place % len(COLORS)]) for method, place in own.items()}
    looks, seen = {}, set()
    for key in methods:
        index = next(free) if key[0] in seen or key[0] not in known else own[key[0]]
        seen.add(key[0])
        looks[key] = dict(
            color=colors[key[0]],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=DASHES[index % len(DASHES)],
        )
    return looks


def panels(count: int) -> tuple[Figure, list[plt.Axes]]:
    """Return a figure and its `count` axes, in rows of at most three."""
    columns = 2 if count in (2, 4) else min(COLUMNS, count)
    lines = math.ceil(count / columns)
    # A single narrow panel leaves no room for the legend below it.
    width = max(PANEL[0] * columns, 6.4)
    figure, axes = plt.subplots(lines, columns, figsize=(width, PANEL[1] * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def dress(axis: plt.Axes, title: str, x: str, y: str) -> None:
    """Set a panel's title, the labels of its axes, and a grid."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def at_least(limits: tuple[float, float], span: float) -> tuple[float, float]:
    """Return the limits of an axis, widened about their middle to `span` if they are closer together."""
    spare = max(0.0, span - (limits[1] - limits[0])) / 2
    return limits[0] - spare, limits[1] + spare


def score_label(of_task: pd.DataFrame) -> str:
    """Return the label of a score's axis, with the unit, from the metric of a task's rows."""
    metric = of_task["metric"].iloc[0]
    return METRICS.get(metric, metric)


def dense_line(axis: plt.Axes, of_task: pd.DataFrame) -> None:
    """Draw the dense model's score as a dashed line; a mean over the rows of a task."""
    axis.axhline(of_task["dense_score"].mean(), color="0.35", linestyle=(0, (8, 3)), linewidth=1, label="dense")


def scale_perplexity(axis: plt.Axes, of_task: pd.DataFrame) -> None:
    """Put perplexities on a logarithmic axis that ends at `RUINED` times the dense one; larger perplexities are outside the picture."""
    axis.set_yscale("log")
    dense, scores = of_task["dense_score"].mean(), of_task["score"]
    axis.set_ylim(0.9 * min(dense, scores.min()), min(1.1 * scores.max(), RUINED * dense))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def label(method: Method) -> str:
    """Return the name of a method with its settings for a legend."""
    return method_label(*method)


def legend_below(figure: Figure, axes: list[plt.Axes]) -> None:
    """Draw one legend for all panels below them, and add the height of the legend to that of the figure."""
    drawn = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            drawn.setdefault(name, handle)
    longest = max(map(len, drawn), default=0)
    columns = min(len(drawn), max(1, int(figure.get_figwidth() // (HANDLE + CHARACTER * longest))))
    figure.set_figheight(figure.get_figheight() + ENTRY * (math.ceil(len(drawn) / columns) + 1))
    figure.legend(
        drawn.values(),
        drawn.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PDF and PNG, whole or not at all.

    Raises:
        UserError: as of `write_whole`.
    """
    paths = [folder / f"{name}.{suffix}" for suffix in ("pdf", "png")]
    # Without a date, the same cells give the same file.
    undated = {".pdf": {"CreationDate": None}}
    for path in paths:
        write_whole(path, lambda temporary: figure.savefig(temporary, dpi=160, metadata=undated.get(temporary.suffix)))
    plt.close(figure)
    return paths
