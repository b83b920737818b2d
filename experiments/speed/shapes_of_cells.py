"""Time the shapes of a file of cells in one run: `python -m experiments.speed.shapes_of_cells results/shares.csv`.

For each task and target, models of random weights with the heads and neurons of all cells alternate with the dense model, so that a
machine that is slower for a while is slower for all methods. The times replace the times in the file, which the runs of the cells
measured under different loads of the machine. The machine must be otherwise idle. For language models, a prompt and a decoding step are
timed, too.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from tqdm import tqdm

from experiments.config.kinds import THREADS, check, or_null
from experiments.speed.shapes import DECODERS, SHAPES, DecoderShape, pruned_to, random_decoder, random_model
from experiments.store import measurements
from experiments.store.locks import locked_file
from experiments.tasks.base import Task
from experiments.tasks.language import LanguageTask
from kprune.budgets.latency import measure_generation
from kprune.budgets.latency.timing import alternate, device_name, random_batch
from kprune.errors import UserError, command
from kprune.files import reachable
from kprune.types import Model

READ = ("task", "model", "target", "kept_heads", "kept_neurons", "sparsity", "latency_speedup")
OTHER_FILE = "give a CSV file of analysis.collect"

Row = dict[str, str]
Kept = tuple[str, str]
"""The numbers of kept heads and neurons of each layer, as texts of the columns `kept_heads` and `kept_neurons`."""
Place = tuple[str, str, str]
"""Model, task and target; cells that share all three are timed in turn."""


def time_shapes(dense: Model, generates: bool, shapes: Sequence[Kept]) -> Iterator[tuple[Kept, Row]]:
    """Time a model in several shapes, in float32 on the CPU, at the default batch size and length of cells.

    Args:
        dense: the dense model.
        generates: whether the model is a language model, so that a prompt and a decoding step are timed, too.
        shapes: the shapes of the pruned models.

    Yields:
        a shape, and the columns of its latency.
    """
    point = (LanguageTask if generates else Task).latency_point
    batch = random_batch(dense, *point)
    models = [dense, *(pruned_to(dense, *(list(map(int, kept.split())) for kept in shape)) for shape in shapes)]
    times = alternate([partial(model, **batch) for model in models], dense.device)
    dense_ms, *pruned_ms = map(statistics.median, times)
    speeds = measure_generation(models, *point) if generates else {}
    for place, (shape, ms) in enumerate(zip(shapes, pruned_ms, strict=True), 1):
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
    """Return the rows of cells with newly measured latencies; a cell that has no shape to time gets empty columns of latency.

    A cell has no shape to time if its model is not in `SHAPES` or `DECODERS` or has another size there, if it has zeros among the
    weights, or if its units depend on the input.

    Raises:
        UserError: no cell has a shape to time.
    """
    groups: dict[Place, list[Kept]] = {}
    for row in filter(whole, rows):
        shapes = groups.setdefault(place(row), [])
        if kept(row) not in shapes:
            shapes.append(kept(row))
    if not groups:
        known = ", ".join((*SHAPES, *DECODERS))
        raise UserError(f"no cell here has a shape to time: give cells of {known} that keep whole units")
    found: dict[tuple[Place, Kept], Row] = {}
    dense = {name: dense_model(name) for name in {model for model, *_ in groups}}
    for group in tqdm(groups, "shapes", unit="group", disable=None):
        model, *_ = group
        times = time_shapes(dense[model], model in DECODERS, groups[group])
        found |= {(group, shape): latency for shape, latency in times}
    none = {name: "" for name in rows[0] if name.startswith("latency_")}
    return [row | none | found.get((place(row), kept(row)), {}) for row in rows]


def dense_model(name: str) -> Model:
    """Return a model of random weights with the shape of this name in `SHAPES` or `DECODERS`."""
    return random_decoder(DECODERS[name]) if name in DECODERS else random_model(SHAPES[name])


def place(row: Row) -> Place:
    return row["model"], row["task"], row["target"]


def kept(row: Row) -> Kept:
    return row["kept_heads"], row["kept_neurons"]


def whole(row: Row) -> bool:
    """Tell whether a cell is of a model in `SHAPES` or `DECODERS` and keeps whole units with all their weights.

    The numbers of layers and units are checked, because the user's own checkpoint may have the name of such a model and another size.
    """
    shape = (SHAPES | DECODERS).get(row["model"])
    if shape is None or row["sparsity"]:
        return False
    heads = shape.groups if isinstance(shape, DecoderShape) else shape.heads
    counts = [units.split() for units in kept(row)]
    return all(
        len(units) == shape.layers and all(count.isdecimal() and int(count) <= limit for count in units)
        for units, limit in zip(counts, (heads, shape.neurons), strict=True)
    )


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=reachable, help="CSV file of analysis.collect; it is rewritten")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    options = parser.parse_args()
    check("--threads", options.threads, or_null(THREADS))
    if not options.file.is_file():
        raise UserError(f"{options.file} is no file: {OTHER_FILE}")
    if options.threads:
        torch.set_num_threads(options.threads)
    with locked_file(options.file, OTHER_FILE):
        header, rows = measurements.read_all(options.file, OTHER_FILE)
        if lacking := [name for name in READ if not rows or name not in header]:
            raise UserError(f"{options.file} has no cell with the column {lacking[0]}: {OTHER_FILE}")
        rows = timed_again(rows)
        # The rows may have new columns, since an older file lacks those of a language model's speed.
        measurements.write(options.file, list(dict.fromkeys(name for row in rows for name in row)), rows)
    count = sum(bool(row["latency_speedup"]) for row in rows)
    print(f"{options.file}: {count} of {len(rows)} cells have the speed-up of their shape")


if __name__ == "__main__":
    sys.exit(main())
