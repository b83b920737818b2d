"""Single numbers of the pages' prose: `<!-- number:loss kprune_plus 0.8 100000 -->1.60<!-- /number -->`.

The words behind the name are the arguments of a function of `NUMBERS`. A number of other cells than the main comparison's has
their file in front: `<!-- number:shares.csv:loss-on squad kprune_plus 0.9 20000 -->`.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.aggregate import aggregate, calibration_budget, informative, one_version
from analysis.records import load, read_csv
from analysis.render import MISSING, number
from analysis.slicegpt import SHAPES, dense_parameters, skip_parameters, sliced_parameters
from analysis.tables.loss import mean_draws, ratio, with_interval
from analysis.variants import without_calibration
from kprune.errors import UserError

ENDS = {"lowest": min, "highest": max}


class Numbers:
    """Make the numbers of prose from the cells of the main comparison and the files beside them.

    Args:
        cells: rows of `analysis.records`, without the embedded task.
        folder: folder of the files.
    """

    def __init__(self, cells: pd.DataFrame, folder: Path):
        table = aggregate(cells)
        plain = table["settings"].map(without_calibration) == ""
        self.table = table[plain & informative(table)].assign(budget=calibration_budget)
        self.cells = cells
        self.folder = folder

    def loss(self, method: str, target: str, tokens: str) -> str:
        """Return the points that a method loses, the mean over the tasks."""
        return number(self.mean_loss(method, target, tokens))

    def loss_on(self, task: str, method: str, target: str, tokens: str) -> str:
        """Return the points that a method loses on one task."""
        return number(self.losses(method, target, tokens).get(task))

    def ratio(self, method: str, tokens: str, reference: str, reference_tokens: str, target: str) -> str:
        """Return the mean loss of a method as a share of another's."""
        theirs = self.mean_loss(reference, target, reference_tokens)
        return number(self.mean_loss(method, target, tokens) / theirs if theirs else None)

    def ratio_interval(self, method: str, tokens: str, reference: str, reference_tokens: str, target: str) -> str:
        """Return the same, with its 95 % interval if the predictions of all cells were kept: 0.30 [0.25, 0.36]."""
        tasks = self.table["task"].unique()
        draws = []
        for name, budget in ((method, tokens), (reference, reference_tokens)):
            rows = self.rows(name, target, budget).reset_index()
            settings = rows["settings"].iloc[0] if len(rows) else ""
            draws.append(mean_draws(rows.assign(loss=rows["dense_score"] - rows["score"]), (name, settings), tasks))
        return with_interval(ratio(*draws))

    def tasks(self) -> str:
        """Return the number of tasks that a mean loss is taken over."""
        return str(self.table["task"].nunique())

    def cost(self, end: str, method: str, reference: str) -> str:
        """Return the lowest or highest ratio of two methods' pruning times, over cells that are the same but for the method."""
        ratios = self.ratios("pruning_seconds", "device", method, reference)
        return MISSING if ratios.empty else number(extreme(end, ratios), "{:.1f}")

    def bench(self, end: str, method: str, reference: str) -> str:
        """Return the lowest or highest ratio of two methods' seconds, over the models and tokens of `make bench`."""
        if not (self.folder / "bench.csv").is_file():
            return MISSING
        seconds = read_csv(self.folder / "bench.csv").pivot_table(
            index=["shape", "tokens", "device"], columns="method", values="seconds"
        )
        if not {method, reference} <= set(seconds):
            return MISSING
        ratios = (seconds[method] / seconds[reference]).dropna()
        return MISSING if ratios.empty else number(extreme(end, ratios), "{:.1f}")

    def relative_speed(self, method: str, reference: str) -> str:
        """Return the geometric mean ratio of two methods' speed-ups, over cells that are the same but for the method."""
        logs = np.log(self.ratios("latency_speedup", "latency_device", method, reference))
        return MISSING if logs.empty else number(np.exp(logs.mean()))

    def speedup(self, end: str, file: str, *chosen: str) -> str:
        """Return the lowest or highest speed-up of a latency file's rows of several pairs, of those that have each `column=value`."""
        if not (self.folder / file).is_file():
            return MISSING
        rows = read_csv(self.folder / file, dtype=str)
        for entry in chosen:
            column, _, values = entry.partition("=")
            if column not in rows:
                raise UserError(f"{file} has no column '{column}': use one of {', '.join(rows)}")
            rows = rows[rows[column].isin(values.split(","))]
        # A single pair is no measurement.
        speeds = rows["speedup"][rows["repeats"].astype(int) > 1].astype(float)
        return MISSING if speeds.empty else number(extreme(end, speeds), "{:.1f}")

    def slicegpt(self, model: str, *which: str) -> str:
        """Return the millions of parameters of a dense model ("dense"), of what SliceGPT leaves ("0.2"), or of its skips ("skips 0.2")."""
        shape = SHAPES[model]
        if which == ("dense",):
            return number(dense_parameters(shape) / 1e6, "{:.1f}")
        *skips, slicing = which
        return number((skip_parameters if skips else sliced_parameters)(shape, float(slicing)) / 1e6, "{:.1f}")

    def ratios(self, column: str, machine: str, method: str, reference: str) -> pd.Series:
        """Return the ratios of two methods' values, over cells that are the same but for the method, the machine included."""
        same = ["task", "model", "target", "tokens", "seed", machine]
        cells = self.cells[self.cells["variant"].map(without_calibration) == ""].fillna({machine: ""})
        values = cells.set_index(["method", *same])[column]
        if not {method, reference} <= set(cells["method"]):
            return values[:0]
        return (values[method] / values[reference]).dropna()

    def losses(self, method: str, target: str, tokens: str) -> pd.Series:
        """Return the points lost on each task, means over seeds."""
        rows = self.rows(method, target, tokens)
        return rows["dense_score"] - rows["score"]

    def rows(self, method: str, target: str, tokens: str) -> pd.DataFrame:
        """Return the row of each task."""
        rows = self.table[(self.table["method"] == method) & (self.table["target"] == target)]
        return rows[rows["budget"] == float(tokens)].set_index("task")

    def mean_loss(self, method: str, target: str, tokens: str) -> float:
        """Return the mean of `losses`; NaN if a task is missing, or is of another version of the method."""
        if not one_version(self.rows(method, target, tokens)):
            return float("nan")
        return self.losses(method, target, tokens).reindex(self.table["task"].unique()).mean(skipna=False)


NUMBERS = {
    "loss": Numbers.loss,
    "loss-on": Numbers.loss_on,
    "ratio": Numbers.ratio,
    "ratio-interval": Numbers.ratio_interval,
    "tasks": Numbers.tasks,
    "cost": Numbers.cost,
    "bench": Numbers.bench,
    "relative-speed": Numbers.relative_speed,
    "speedup": Numbers.speedup,
    "slicegpt": Numbers.slicegpt,
}


@cache
def numbers_of(file: Path) -> Numbers:
    """Return the numbers of another file of cells."""
    return Numbers(load(file), file.parent)


def extreme(end: str, values: pd.Series) -> float:
    if end not in ENDS:
        raise UserError(f"'{end}' is none of {', '.join(ENDS)}")
    return ENDS[end](values)


def number_asked(call: str, numbers: Numbers) -> str:
    """Return the number that a marker asks for.

    Raises:
        UserError: the name is unknown, or the words behind it are not its arguments.
    """
    name, *arguments = call.split()
    file, _, name = name.rpartition(":")
    if file:
        numbers = numbers_of(numbers.folder / file)
    if name not in NUMBERS:
        raise UserError(f"the page marks a number '{name}': use one of {', '.join(NUMBERS)}")
    try:
        return NUMBERS[name](numbers, *arguments)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"the page marks a number '{call}', which can't be made: {error}") from error
