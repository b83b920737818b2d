"""Time every distinct shape of a file of cells in one run: `python -m analysis.timing results/shares.csv`.

Models of random weights with the cells' heads and neurons alternate with the dense one, and the times take the place of
those that the cells' own runs measured, each beside whatever else the machine did then. The machine must be otherwise idle.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from analysis.records import command, in_order, load
from experiments.config.kinds import THREADS, check, or_null
from experiments.speed.shapes import SHAPES, pruned_to, random_model
from experiments.store.locks import locked_file
from kprune.budgets.latency.timing import STANDARD, alternate, device_name, random_batch
from kprune.errors import UserError
from kprune.files import OTHER_FOLDER, write_text

GROUP = 8
"""Shapes that alternate with one dense model: its time is measured once for all of them."""
REPEATS, WARM_UP = 9, 1

Kept = tuple[str, str]
"""Heads and neurons per layer, as in the columns `kept_heads` and `kept_neurons`."""


def time_shapes(model: str, shapes: Sequence[Kept]) -> Iterator[tuple[Kept, float, float]]:
    """Time models of a shape of `SHAPES`, in float32 on the CPU, at the standard point.

    Yields:
        what is kept, and the median milliseconds of the dense and of the pruned model.
    """
    dense = random_model(SHAPES[model])
    batch = random_batch(dense, STANDARD.batch_size, STANDARD.sequence_length)
    for start in range(0, len(shapes), GROUP):
        group = shapes[start : start + GROUP]
        pruned = [pruned_to(dense, *(list(map(int, kept.split())) for kept in shape)) for shape in group]
        calls = [lambda model=model: model(**batch) for model in (dense, *pruned)]
        times = alternate(calls, dense.device, REPEATS, WARM_UP)
        dense_ms, *pruned_ms = map(statistics.median, times)
        yield from ((shape, dense_ms, ms) for shape, ms in zip(group, pruned_ms, strict=True))


def timed_again(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with the latency of their shapes as it is now; other cells have none.

    Others are those of models that are not in `SHAPES`, with zeros among the weights, or whose units depend on the input.

    Raises:
        UserError: all are others.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for model, rows in cells[[whole(row) for row in cells.itertuples()]].groupby("model", sort=False):
        shapes = list(dict.fromkeys(zip(rows["kept_heads"], rows["kept_neurons"], strict=True)))
        times = tqdm(time_shapes(model, shapes), f"shapes of {model}", len(shapes), unit="shape", disable=None)
        for (heads, neurons), dense_ms, pruned_ms in times:
            found[model, heads, neurons] = {
                "latency_device": device_name(torch.device("cpu")),
                "latency_batch_size": STANDARD.batch_size,
                "latency_sequence_length": STANDARD.sequence_length,
                "latency_threads": torch.get_num_threads(),
                "latency_dense_ms": dense_ms,
                "latency_pruned_ms": pruned_ms,
                "latency_speedup": dense_ms / pruned_ms,
            }
    if not found:
        raise UserError(f"no cell here has a shape to time: give cells of {', '.join(SHAPES)} that keep whole units")
    keys = zip(cells["model"], cells["kept_heads"], cells["kept_neurons"], strict=True)
    latency = pd.DataFrame([found.get(key, {}) for key in keys], index=cells.index)
    names = [name for name in cells if name.startswith("latency_")]
    return cells.drop(columns=names).join(latency.reindex(columns=names))


def whole(row) -> bool:
    """Tell whether a cell keeps whole units, and all of their weights, of a model in `SHAPES`."""
    kept = f"{row.kept_heads} {row.kept_neurons}".split()
    return row.model in SHAPES and pd.isna(row.sparsity) and all(count.isdecimal() for count in kept)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.timing", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="CSV file of analysis.collect; it is rewritten")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    arguments = parser.parse_args()
    check("--threads", arguments.threads, or_null(THREADS))
    if arguments.file.is_dir():
        raise UserError(f"{arguments.file} is a folder: give a CSV file of analysis.collect")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with locked_file(arguments.file, OTHER_FOLDER):
        cells = timed_again(load(arguments.file))
        text = in_order(cells.drop(columns="predictions")).to_csv(index=False, float_format="%.6g")
        write_text(arguments.file, text)
    print(
        f"{arguments.file}: {cells['latency_speedup'].count()} of {len(cells)} cells have the speed-up of their shape"
    )


if __name__ == "__main__":
    sys.exit(command(main))
