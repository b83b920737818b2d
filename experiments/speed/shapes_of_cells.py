"""Time every distinct shape of a file of cells in one run: `python -m experiments.speed.shapes_of_cells results/shares.csv`.

Models of random weights with the cells' heads and neurons alternate with the dense one, and the times take the place of
those that the cells' own runs measured, each beside whatever else the machine did then. The machine must be otherwise idle.
Of language models, it times a prompt and a decoding step, too.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.config.kinds import THREADS, check, or_null
from experiments.speed import measurements
from experiments.speed.shapes import DECODERS, SHAPES, pruned_to, random_decoder, random_model
from experiments.store.locks import locked_file
from experiments.tasks.base import Task
from experiments.tasks.language import LanguageTask
from kprune.budgets.latency import measure_generation
from kprune.budgets.latency.timing import alternate, device_name, random_batch
from kprune.errors import UserError, command

GROUP = 8
"""Shapes that alternate with one dense model: its time is measured once for all of them."""
READ = ("model", "kept_heads", "kept_neurons", "sparsity", "latency_speedup")
OTHER_FILE = "give a CSV file of analysis.collect"

Row = dict[str, str]
Kept = tuple[str, str]
"""Heads and neurons per layer, as in the columns `kept_heads` and `kept_neurons`."""


def time_shapes(model: str, shapes: Sequence[Kept]) -> Iterator[tuple[Kept, Row]]:
    """Time models of a shape of `SHAPES` or `DECODERS`, in float32 on the CPU, at the point that cells are timed at.

    Yields:
        what is kept, and the columns of its latency.
    """
    generates = model in DECODERS
    dense = random_decoder(DECODERS[model]) if generates else random_model(SHAPES[model])
    point = (LanguageTask if generates else Task).latency_point
    batch = random_batch(dense, *point)
    for start in range(0, len(shapes), GROUP):
        group = shapes[start : start + GROUP]
        models = [dense, *(pruned_to(dense, *(list(map(int, kept.split())) for kept in shape)) for shape in group)]
        times = alternate([partial(model, **batch) for model in models], dense.device)
        dense_ms, *pruned_ms = map(statistics.median, times)
        speeds = measure_generation(models, *point) if generates else {}
        for place, (shape, ms) in enumerate(zip(group, pruned_ms, strict=True), 1):
            latency = {
                "device": device_name(dense.device),
                "batch_size": point[0],
                "sequence_length": point[1],
                "threads": torch.get_num_threads(),
                "dense_ms": dense_ms,
                "pruned_ms": ms,
                "speedup": dense_ms / ms,
            }
            for name, of_models in speeds.items():
                latency |= {f"{name}_dense": of_models[0], f"{name}_pruned": of_models[place]}
            yield shape, {f"latency_{name}": measurements.as_text(value) for name, value in latency.items()}


def timed_again(rows: Sequence[Row]) -> list[Row]:
    """Return the cells with the latency of their shapes as it is now; other cells have none.

    Others are those of models that are in neither `SHAPES` nor `DECODERS`, with zeros among the weights, or whose units
    depend on the input.

    Raises:
        UserError: all are others.
    """
    found: dict[tuple[str, Kept], Row] = {}
    timed = [row for row in rows if whole(row)]
    for model in dict.fromkeys(row["model"] for row in timed):
        shapes = list(dict.fromkeys(kept(row) for row in timed if row["model"] == model))
        bar = tqdm(time_shapes(model, shapes), f"shapes of {model}", len(shapes), unit="shape", disable=None)
        found |= {(model, shape): latency for shape, latency in bar}
    if not found:
        known = ", ".join((*SHAPES, *DECODERS))
        raise UserError(f"no cell here has a shape to time: give cells of {known} that keep whole units")
    none = {name: "" for name in rows[0] if name.startswith("latency_")}
    return [row | none | found.get((row["model"], kept(row)), {}) for row in rows]


def kept(row: Row) -> Kept:
    return row["kept_heads"], row["kept_neurons"]


def whole(row: Row) -> bool:
    """Tell whether a cell keeps whole units, and all of their weights, of a model that is known here."""
    counts = " ".join(kept(row)).split()
    return row["model"] in (*SHAPES, *DECODERS) and not row["sparsity"] and all(count.isdecimal() for count in counts)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="CSV file of analysis.collect; it is rewritten")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    options = parser.parse_args()
    check("--threads", options.threads, or_null(THREADS))
    if not options.file.is_file():
        raise UserError(f"{options.file} is no file: {OTHER_FILE}")
    if options.threads:
        torch.set_num_threads(options.threads)
    with locked_file(options.file, OTHER_FILE):
        rows = measurements.read_all(options.file, OTHER_FILE)
        if lacking := [name for name in READ if not rows or name not in rows[0]]:
            raise UserError(f"{options.file} has no cell with the column {lacking[0]}: {OTHER_FILE}")
        rows = timed_again(rows)
        measurements.write(options.file, list(rows[0]), rows)
    count = sum(bool(row["latency_speedup"]) for row in rows)
    print(f"{options.file}: {count} of {len(rows)} cells have the speed-up of their shape")


if __name__ == "__main__":
    sys.exit(main())
