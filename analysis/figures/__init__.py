"""The figures, by name. Each draws the cells of one model, and gives a matplotlib figure, or None if no cell is for it."""

from collections.abc import Container, Iterator

import pandas as pd
from matplotlib.figure import Figure

from analysis.aggregate import aggregate
from analysis.figures.kept_units import kept_units
from analysis.figures.score_against_share import score_against_flops, score_against_parameters
from analysis.figures.score_against_time import (
    score_against_seconds,
    score_against_speedup,
    score_against_tokens_per_second,
)
from analysis.figures.sensitivity import sensitivity

CAPTIONS = {
    "score_against_flops": "Score by share of FLOPs removed",
    "score_against_parameters": "Score by share of parameters removed",
    "score_against_seconds": "Score by pruning time",
    "score_against_speedup": "Score by measured speed-up",
    "score_against_tokens_per_second": "Score by measured tokens per second",
    "kept_units": "Heads and neurons kept per layer",
    "sensitivity": "Sensitivity to the settings of K-prune",
}

DRAWN = (
    score_against_flops,
    score_against_parameters,
    score_against_seconds,
    score_against_speedup,
    score_against_tokens_per_second,
    sensitivity,
)


def figures(cells: pd.DataFrame, wanted: Container[str] = CAPTIONS) -> Iterator[tuple[str, Figure]]:
    """Draw the wanted figures, and yield (name, figure); the name ends with the model's if there are several models.

    Args:
        cells: rows of `analysis.records`.
        wanted: names of `CAPTIONS`.

    Raises:
        UserError: as of `aggregate`.
    """
    table = aggregate(cells)
    models = list(dict.fromkeys(table["model"]))
    for model in models:
        suffix = "" if len(models) == 1 else f"-{model}"
        of_model, rows = cells[cells["model"] == model], table[table["model"] == model]
        for draw in DRAWN:
            if draw.__name__ in wanted and (figure := draw(rows)):
                yield f"{draw.__name__}{suffix}", figure
        for task in dict.fromkeys(rows["task"]):
            if "kept_units" in wanted and (figure := kept_units(of_model, task)):
                yield f"kept_units-{task}{suffix}", figure
