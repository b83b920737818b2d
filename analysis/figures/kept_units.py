"""Numbers of heads and neurons that each layer keeps: heat maps, a line of them for each method."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.aggregate import masked, settings, target_order
from analysis.figures.style import label, methods_of
from analysis.render import target_label, task_label
from analysis.tables.accuracy import compared


def kept_units(cells: pd.DataFrame, task: str) -> Figure | None:
    """Draw two maps per method, of kept heads and of kept neurons: a column per layer, a row per target.

    The number in a field is the mean over seeds. Its shade is the number divided by the largest one in all maps of the same kind.
    Cells that set single weights to zero keep all units, and are not drawn.

    Args:
        cells: rows of `analysis.records` for one model.
        task: the task to draw.

    Returns:
        The figure; None if no cell is for it.
    """
    cells = cells[cells["task"] == task].assign(settings=settings)
    cells = cells[compared(cells) & ~masked(cells)]
    if cells.empty:
        return None
    methods = methods_of(cells)
    targets = sorted(cells["target"].unique(), key=target_order)
    kinds = ("kept_heads", "kept_neurons")
    depth = max(len(text.split()) for kind in kinds for text in cells[kind])
    maps = {kind: {key: layers(cells, kind, key, targets, depth) for key in methods} for kind in kinds}
    width, height = max(2.6, 0.42 * depth + 1.1), 0.3 * len(targets) + 0.75
    figure, axes = plt.subplots(
        len(methods),
        2,
        figsize=(2 * width, height * len(methods) + 0.5),
        squeeze=False,
        layout="constrained",
        sharex=True,
        sharey=True,
    )
    for column, (kind, by_method) in enumerate(maps.items()):
        most = max(np.nanmax(values) for values in by_method.values()) or 1
        for axis, (key, values) in zip(axes[:, column], by_method.items(), strict=True):
            axis.imshow(values / most, cmap="Greys", vmin=0, vmax=1, aspect="auto")
            for (y, x), value in np.ndenumerate(values):
                if not np.isnan(value):
                    dark = value / most > 0.55
                    axis.text(
                        x, y, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if dark else "black"
                    )
            axis.set_title(f"{label(key)}: {kind.removeprefix('kept_')}", fontsize=9)
            axis.set_xticks(range(depth), [str(layer + 1) for layer in range(depth)], fontsize=8)
            axis.set_yticks(range(len(targets)), [target_label(target) for target in targets], fontsize=8)
            axis.tick_params(length=0)
        axes[-1, column].set_xlabel("Layer, bottom to top", fontsize=9)
    figure.supylabel("Asked to go", fontsize=9)
    figure.suptitle(task_label(task), fontsize=10)
    return figure


def layers(cells: pd.DataFrame, kind: str, method: tuple[str, str], targets: list[str], depth: int) -> np.ndarray:
    """Return the mean over seeds of the units that a method keeps in each layer: [targets, depth]; NaN where no cell has the layer."""
    values = np.full((len(targets), depth), np.nan)
    for line, target in enumerate(targets):
        chosen = (cells["method"] == method[0]) & (cells["settings"] == method[1]) & (cells["target"] == target)
        kept = pd.DataFrame([[float(number) for number in text.split()] for text in cells.loc[chosen, kind]]).mean()
        values[line, : len(kept)] = kept
    return values
