"""Single numbers of the pages' prose: `<!-- number:loss kprune_plus 0.8 100000 -->1.60<!-- /number -->`.

The words behind the name are the arguments of a function of `NUMBERS`. If a number is not made from the cells of the main
comparison, the CSV file of its cells stands before its name: `<!-- number:shares.csv:loss-on squad kprune_plus 0.9 20000 -->`.
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
    """Make the numbers of prose from one CSV file of cells and from the other files in its folder.

    Args:
        cells: rows of `analysis.records`, for the main comparison without the embedded task.
        folder: folder of the other files, such as `bench.csv`.
    """

    def __init__(self, cells: pd.DataFrame, folder: Path):
        table = aggregate(cells)
        plain = table["settings"].map(without_calibration) == ""
        self.table = table[plain & informative(table)].assign(budget=calibration_budget)
        self.cells = cells
        self.folder = folder

    def loss(self, method: str, target: str, tokens: str) -> str:
        """Return the mean over the tasks of the points that a method loses; a dash if a task is missing."""
        return number(self.mean_loss(method, target, tokens))

    def loss_on(self, task: str, method: str, target: str, tokens: str) -> str:
        """Return the points that a method loses on one task; a dash if it was not run there."""
        return number(self.losses(method, target, tokens).get(task))

    def ratio(self, method: str, tokens: str, reference: str, reference_tokens: str, target: str) -> str:
        """Return the mean loss of a method divided by that of the method `reference`."""
        theirs = self.mean_loss(reference, target, reference_tokens)
        return number(self.mean_loss(method, target, tokens) / theirs if theirs else None)

    def ratio_interval(self, method: str, tokens: str, reference: str, reference_tokens: str, target: str) -> str:
        """Return the number of `ratio`, with its 95 % interval if the predictions of all cells were kept: 0.30 [0.25, 0.36]."""
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
        """Return the lowest or highest ratio of two methods' pruning times, over the pairs of cells that differ in the method alone."""
        ratios = self.ratios("pruning_seconds", "device", method, reference)
        return MISSING if ratios.empty else number(extreme(end, ratios), "{:.1f}")

    def bench(self, end: str, method: str, reference: str) -> str:
        """Return the lowest or highest ratio of two methods' seconds, over the models, tokens and devices of `bench.csv`."""
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
        """Return the geometric mean of the ratios of two methods' speed-ups, over the pairs of cells that differ in the method alone."""
        logs = np.log(self.ratios("latency_speedup", "latency_device", method, reference))
        return MISSING if logs.empty else number(np.exp(logs.mean()))

    def speedup(self, end: str, file: str, *chosen: str) -> str:
        """Return the lowest or highest speed-up of a latency file, over its rows that were measured more than once.

        Args:
            end: "lowest" or "highest".
            file: name of the file in the folder.
            chosen: conditions `column=value,value`; a row must have one of the values in each of the columns.

        Raises:
            UserError: the file has no such column, or `end` is unknown.
        """
        if not (self.folder / file).is_file():
            return MISSING
        rows = read_csv(self.folder / file, dtype=str)
        for entry in chosen:
            column, _, values = entry.partition("=")
            if column not in rows:
                raise UserError(f"{file} has no column '{column}': use one of {', '.join(rows)}")
            rows = rows[rows[column].isin(values.split(","))]
        # One pair of passes, dense and pruned, is too few to report.
        speeds = rows["speedup"][rows["repeats"].astype(int) > 1].astype(float)
        return MISSING if speeds.empty else number(extreme(end, speeds), "{:.1f}")

    def slicegpt(self, model: str, *which: str) -> str:
        """Return millions of parameters: of a dense model ("dense"), sliced by a share ("0.2"), or of its skip matrices ("skips 0.2")."""
        shape = SHAPES[model]
        if which == ("dense",):
            return number(dense_parameters(shape) / 1e6, "{:.1f}")
        *skips, slicing = which
        return number((skip_parameters if skips else sliced_parameters)(shape, float(slicing)) / 1e6, "{:.1f}")

    def ratios(self, column: str, machine: str, method: str, reference: str) -> pd.Series:
        """Return the ratio of two methods' values for each pair of cells that differ in the method alone.

        Args:
            column: the column of the values.
            machine: the column that says where they were measured; cells that differ in it make no pair.
            method, reference: methods of the numerator and of the denominator.
        """
        same = ["task", "model", "target", "tokens", "seed", machine]
        cells = self.cells[self.cells["variant"].map(without_calibration) == ""].fillna({machine: ""})
        values = cells.set_index(["method", *same])[column]
        if not {method, reference} <= set(cells["method"]):
            return values[:0]
        return (values[method] / values[reference]).dropna()

    def losses(self, method: str, target: str, tokens: str) -> pd.Series:
        """Return the points that a method loses, a mean over seeds for each task: [tasks], indexed by task."""
        rows = self.rows(method, target, tokens)
        return rows["dense_score"] - rows["score"]

    def rows(self, method: str, target: str, tokens: str) -> pd.DataFrame:
        """Return the rows of a method at one target and calibration budget, indexed by task."""
        rows = self.table[(self.table["method"] == method) & (self.table["target"] == target)]
        return rows[rows["budget"] == float(tokens)].set_index("task")

    def mean_loss(self, method: str, target: str, tokens: str) -> float:
        """Return the mean of `losses`; NaN if a task is missing, or if tasks were run by several versions of the method."""
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
    """Return the numbers that can be made from another CSV file of cells."""
    return Numbers(load(file), file.parent)


def extreme(end: str, values: pd.Series) -> float:
    """Return the lowest or highest value.

    Raises:
        UserError: `end` is neither "lowest" nor "highest".
    """
    if end not in ENDS:
        raise UserError(f"'{end}' is none of {', '.join(ENDS)}")
    return ENDS[end](values)


def number_asked(call: str, numbers: Numbers) -> str:
    """Return the number that a marker asks for.

    Raises:
        UserError: the name is unknown, the words behind it are not its arguments, or its file can't be read.
    """
    name, *arguments = call.split()
    file, _, name = name.rpartition(":")
    if file:
        numbers = numbers_of(numbers.folder / file)
    if name not in NUMBERS:
        raise UserError(f"the page marks a number '{name}': use one of {', '.join(NUMBERS)}")
    try:
        return NUMBERS[name](numbers, *arguments)
    except (LookupError, TypeError, ValueError, UserError) as error:
        reason = f"{error.args[0]} is not there" if isinstance(error, KeyError) else error
        raise UserError(f"the page marks a number '{call}', which can't be made: {reason}") from error
