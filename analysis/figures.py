"""Figures from result files: `python -m analysis.figures OUTPUTS [--output FOLDER]`."""

import argparse
import math
import os
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from analysis import names, paper  # noqa: E402
from analysis.records import command, load  # noqa: E402
from analysis.tables import aggregate, method_label  # noqa: E402
from kprune.errors import UserError  # noqa: E402

# Told apart by marker and dash as well as by colour; the colours are Okabe and Ito's, of different lightness.
STYLES = (
    dict(color="#000000", marker="o", linestyle="-"),
    dict(color="#0072B2", marker="s", linestyle="--"),
    dict(color="#D55E00", marker="^", linestyle="-."),
    dict(color="#E69F00", marker="D", linestyle=":"),
    dict(color="#009E73", marker="v", linestyle=(0, (5, 1, 1, 1, 1, 1))),
    dict(color="#56B4E9", marker="P", linestyle=(0, (1, 1))),
)
METRICS = {"accuracy": "Accuracy (%)", "f1": "F1 (%)", "spearman": "Spearman × 100"}
PANEL = (3.3, 2.7)  # inches
COLUMNS = 3


def score_against_flops(table: pd.DataFrame) -> Figure:
    """Score by share of FLOPs removed for one model: a panel per task, the dense score as a dashed line.

    The paper's own curve stands beside a method's, in grey with open markers, where it has one for the same model and
    task. `table` comes from `aggregate`; cells that were asked for a speed-up are drawn at the share they removed.
    """
    tasks = list(dict.fromkeys(table["task"]))
    columns = min(COLUMNS, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(PANEL[0] * columns, PANEL[1] * lines + 0.6), squeeze=False, layout="constrained"
    )
    methods = sorted(
        {(row.method, row.settings) for row in table.itertuples()},
        key=lambda key: (names.position(names.METHODS, key[0]), key),
    )
    styles = {key: STYLES[index % len(STYLES)] for index, key in enumerate(methods)}
    for axis, task in zip(axes.flat, tasks, strict=False):
        panel(axis, table[table["task"] == task], styles)
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    legends = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes.flat]
    drawn = {label: handle for legend in legends for handle, label in legend}
    figure.legend(
        drawn.values(), drawn.keys(), loc="outside lower center", ncols=min(len(drawn), 2 * columns), frameon=False
    )
    return figure


def panel(axis: plt.Axes, of_task: pd.DataFrame, styles: dict[tuple[str, str], dict]) -> None:
    """One task's curves."""
    task, model, metric = of_task[["task", "model", "metric"]].iloc[0]
    axis.axhline(of_task["dense_score"].mean(), color="0.35", linestyle=(0, (8, 3)), linewidth=1, label="dense")
    for (method, variant), style in styles.items():
        curve = of_task[(of_task["method"] == method) & (of_task["settings"] == variant)].sort_values("flops_reduction")
        if curve.empty:
            continue
        axis.errorbar(
            100 * curve["flops_reduction"], curve["score"], yerr=curve["score_std"].fillna(0), capsize=2, markersize=5,
            linewidth=1.4, label=method_label(method, variant), **style,
        )  # fmt: skip
        published = paper.curve(task, model, method)
        # The paper's one K-prune, compared with both of ours, is drawn once.
        if not published.empty and not variant and method == paper.METHODS[method]:
            published = published[within(published, curve)]
            axis.plot(
                100 * published.index, published, color="0.6", marker=style["marker"], markerfacecolor="white",
                markersize=4, linewidth=1, linestyle=":", label=f"{method_label(method, '')}, paper",
            )  # fmt: skip
    axis.set_title(names.TASKS.get(task, task), fontsize=10)
    axis.set_xlabel("FLOPs removed (%)")
    axis.set_ylabel(METRICS.get(metric, metric))
    axis.grid(color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def within(published: pd.Series, curve: pd.DataFrame) -> pd.Series:
    """Which of the paper's reductions lie within what was measured, half a step beyond it included."""
    return published.index.to_series().between(
        curve["flops_reduction"].min() - 0.025, curve["flops_reduction"].max() + 0.025
    )


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """As PDF and PNG, whole or not at all.

    Raises:
        UserError: the folder is not writable.
    """
    paths = [folder / f"{name}.{suffix}" for suffix in ("pdf", "png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            temporary = path.with_name(f".{os.getpid()}-{path.name}")
            figure.savefig(temporary, dpi=160)
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{folder} is not writable ({error.strerror}): give --output FOLDER") from error
    finally:
        plt.close(figure)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description="Figures from result files.")
    parser.add_argument("source", type=Path, help="output folder of run.py, or CSV file of analysis.collect")
    parser.add_argument("--output", type=Path, help="folder to write to; default: figures/ beside or in the source")
    arguments = parser.parse_args()
    cells = load(arguments.source)
    folder = arguments.source if arguments.source.is_dir() else arguments.source.parent
    table = aggregate(cells)
    models = list(dict.fromkeys(table["model"]))
    for model in models:
        name = "score_against_flops" if len(models) == 1 else f"score_against_flops-{model}"
        figure = score_against_flops(table[table["model"] == model])
        print("figure:", *save(figure, arguments.output or folder / "figures", name))


if __name__ == "__main__":
    sys.exit(command(main))
