"""Points that our methods lose against the dense model, and their ratio to K-prune's loss."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import bootstrap, registry
from analysis.aggregate import calibration_budget, informative, one_version, target_order
from analysis.pairing import REFERENCES, predictions
from analysis.render import MISSING, method_label, model_label, number, target_label, task_label, without_one_model
from analysis.variants import without_calibration

OFFICIAL = ("kprune_official_two_lambdas", "kprune_official")


def loss(table: pd.DataFrame) -> pd.DataFrame:
    """Make a row per model, target and method with its settings, and a column per task: points lost, as means over seeds.

    A row with all `informative` tasks of its model has their mean, too, and the ratio of this mean to that of K-prune and to that
    of the authors' K-prune; both with 95 % intervals if the predictions of all cells were kept. If K-prune was run on several
    calibration budgets, the largest that has a mean counts. Tasks that are not `informative` are shown, but are in no mean.

    Args:
        table: rows of `aggregate`.
    """
    table = table[registry.ours(table["method"]) & table["higher_is_better"].astype(bool)].assign(
        loss=table["dense_score"] - table["score"], budget=calibration_budget
    )
    tasks = list(dict.fromkeys(table["task"]))
    of_model = table[informative(table)].groupby("model")["task"].unique()
    rows = []
    for (model, target), cells in sorted(
        table.groupby(["model", "target"], sort=False), key=lambda entry: (entry[0][0], target_order(entry[0][1]))
    ):
        losses = cells.pivot_table(index=["method", "settings"], columns="task", values="loss", sort=False)
        draws = {key: mean_draws(cells, key, of_model.get(model, [])) for key in losses.index}
        theirs = {
            method_label(methods[-1]): next(filter(None, (reference(cells, draws, name) for name in methods)), None)
            for methods in (REFERENCES, OFFICIAL)
        }
        for key in sorted(losses.index, key=lambda key: (registry.position(key[0]), key)):
            row = {"Model": model_label(model), "FLOPs removed": target_label(target), "Method": method_label(*key)}
            row |= {task_label(task): number(losses.at[key, task]) if task in losses else MISSING for task in tasks}
            row["Seeds"] = seeds_of(cells, key)
            row["Mean"] = with_interval(draws[key])
            for name, other in theirs.items():
                row[f"Of {name}"] = with_interval(ratio(draws[key], draws.get(other)))
            rows.append(row)
    return without_one_model(pd.DataFrame(rows))


def of_method(cells: pd.DataFrame, key: tuple[str, str]) -> pd.DataFrame:
    """Return the rows of a method with its settings, one per task."""
    return cells[(cells["method"] == key[0]) & (cells["settings"] == key[1])].set_index("task")


def seeds_of(cells: pd.DataFrame, key: tuple[str, str]) -> str:
    """Return the number of seeds of a method with its settings on each task: "3", or "1 to 3" if tasks differ."""
    seeds = of_method(cells, key)["seeds"]
    return f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}"


def mean_draws(cells: pd.DataFrame, key: tuple[str, str], tasks: Sequence[str]) -> np.ndarray | None:
    """Return the mean loss over tasks, in points, then that of each resample of examples and seeds.

    Args:
        cells: rows of `aggregate` with a column `loss`.
        key: method and settings.
        tasks: the tasks of the mean.

    Returns:
        [1 + RESAMPLES]; [1], the mean alone, if a cell's predictions were not kept; None if there is no task, a task is missing,
        or the tasks were run by several versions of the method.
    """
    rows = of_method(cells, key)
    if len(tasks) == 0 or not set(tasks) <= set(rows.index) or not one_version(rows.loc[list(tasks)]):
        return None
    of_tasks = [task_draws(rows.loc[task]) for task in tasks]
    if any(len(draws) == 1 for draws in of_tasks):
        return np.array([rows.loc[list(tasks), "loss"].mean()])
    return np.mean(of_tasks, axis=0)


def task_draws(row: pd.Series) -> np.ndarray:
    """Return the loss on one task, a mean over seeds, then that of each resample: [1 + RESAMPLES]; [1] if predictions were not kept."""
    read = [predictions(path) for path in row["predictions"]]
    if not all(arrays is not None and "dense" in arrays for arrays in read):
        return np.array([row["loss"]])
    draws = [
        bootstrap.differences(
            row["metric"], arrays["dense"], arrays["values"], arrays.get("gold"), arrays.get("groups")
        )
        for arrays in read
    ]
    return bootstrap.over_seeds(np.stack(draws))


def reference(
    cells: pd.DataFrame, draws: dict[tuple[str, str], np.ndarray | None], method: str
) -> tuple[str, str] | None:
    """Return (method, settings) of an unchanged method on the largest of its calibration budgets that have a mean loss.

    None if no budget has a mean loss, or if this loss is not above 0: it is the denominator of ratios.

    Args:
        cells: rows of `aggregate` with a column `budget`.
        draws: the result of `mean_draws` for each (method, settings).
        method: the method.
    """
    plain = cells[(cells["method"] == method) & (cells["settings"].map(without_calibration) == "")]
    plain = plain[[draws[method, settings] is not None for settings in plain["settings"]]]
    if plain.empty:
        return None
    key = method, plain.loc[plain["budget"].idxmax(), "settings"]
    return key if draws[key][0] > 0 else None


def ratio(ours: np.ndarray | None, theirs: np.ndarray | None) -> np.ndarray | None:
    """Return the ratio of two mean losses, then that of each resample if both have resamples; None if one of the losses is None."""
    if ours is None or theirs is None:
        return None
    if ours is theirs:
        return np.array([1.0])
    size = min(len(ours), len(theirs))
    return ours[:size] / theirs[:size]


def with_interval(draws: np.ndarray | None) -> str:
    """Write the first of `draws`, with the 95 % interval of the rest if there are any: 0.30 [0.25, 0.36]; a dash for None."""
    if draws is None:
        return MISSING
    if len(draws) == 1:
        return number(draws[0])
    measured, low, high = bootstrap.interval(draws)
    return f"{number(measured)} [{number(low)}, {number(high)}]"
