"""Cells of several seeds as one row."""

import pandas as pd

from analysis import names, paper, registry
from analysis.columns import GENERATION, SIZE, TRAINING, VOCABULARY
from analysis.pairing import DIFFERENCE
from analysis.records import cell_name
from analysis.variants import only_calibration, without_budget
from experiments.store.variant import variant_parts, variant_text
from kprune.errors import UserError
from kprune.target import Target

GROUP = ["task", "model", "method", "settings", "target"]
MEANS = [
    "dense_score",
    "score",
    "evaluation_majority",
    "flops_reduction",
    "params_reduction",
    "params_reduction_of_model",
    "sparsity",
    "pruning_seconds",
    "calibration_tokens",
    *TRAINING,
    "latency_dense_ms",
    "latency_pruned_ms",
    "latency_speedup",
    *GENERATION,
    *SIZE,
    *VOCABULARY,
    *DIFFERENCE,
]
ALIKE = {
    "metric": (["task", "model"], "metrics"),
    "checkpoint_sha256": (["task", "model"], "dense models"),
    "evaluation_window": ([], "windows of a perplexity"),
    "evaluation_data": (["task"], "data sets"),
    "evaluation_first_token": (["task", "model"], "rules for a first token"),
    "evaluation_sha256": (["task", "model"], "evaluation sets"),
    "method_version": (["task", "model", "method"], "versions of the method"),
}
"""Columns that must have one value among the cells that agree in some other columns (all cells of a table if there are none): those
other columns, and the plural of what the values are. Only a perplexity has a window, data and a first token.
"""
DENSE_SPREAD = 0.01
"""Largest difference between two scores of one dense model on one evaluation set, as a share of the higher: machines round differently."""
REMEDY = "remove one kind, or keep it in an output folder or CSV file of its own"
POINT = [f"latency_{name}" for name in ("device", "batch_size", "sequence_length", "threads")]
TIMES = {
    ("pruning_seconds",): ["device"],
    ("latency_dense_ms", "latency_pruned_ms", "latency_speedup", *GENERATION): POINT,
}
"""Columns of times, and the columns that say where they were measured: a row has no time if its cells differ in one of these."""
PAPER_BUDGET = "tokens=100000"
MARGIN = 5.0
"""Points that a dense model must be above the majority's score: otherwise it has learnt little, and its losses are noise."""
FIRSTS = [
    "metric",
    "higher_is_better",
    "evaluation_window",
    "method_version",
    "device",
    *names.SENSITIVITY,
    *POINT,
]


def aggregate(cells: pd.DataFrame) -> pd.DataFrame:
    """Return a row per task, model, method, settings and target, in the order of the tables.

    Args:
        cells: rows of `analysis.records`.

    Returns:
        The columns of `GROUP`, whose `settings` are those of `settings`; `MEANS` over the seeds; `FIRSTS` of the first cell;
        `score_std`; the number of `seeds`; the `paper`'s score, NaN if it has none. `seed_numbers`, `seed_scores` and
        `predictions` (paths of files) are tuples with an entry for each cell, sorted by seed. The ends of the interval
        against K-prune are means of the seeds' ends: the seeds share their evaluation examples, so that an interval of
        their mean difference is no wider. `DIFFERENCE` is NaN if a seed lacks it, and the times of `TIMES` are NaN if they
        were measured on several machines or at several points.

    Raises:
        UserError: as of `check_alike`.
    """
    check_alike(cells)
    cells = cells.assign(settings=settings(cells))
    groups = cells.groupby(GROUP, sort=False, dropna=False)
    table = groups[MEANS].mean().join(groups[FIRSTS].first())
    for times, same in TIMES.items():
        table.loc[(groups[same].nunique() > 1).any(axis=1), list(times)] = float("nan")
    table["score_std"] = groups["score"].std()
    table["seeds"] = groups.size()
    by_seed = cells.sort_values("seed").groupby(GROUP, sort=False, dropna=False)
    for column, of_seeds in {"seed_numbers": "seed", "seed_scores": "score", "predictions": "predictions"}.items():
        table[column] = by_seed[of_seeds].agg(tuple)
    table.loc[groups[DIFFERENCE[0]].count() < table["seeds"], DIFFERENCE] = float("nan")
    table = table.reset_index()
    table["paper"] = [
        paper.score(row.task, row.model, row.method, row.target) if row.settings in ("", PAPER_BUDGET) else None
        for row in table.itertuples()
    ]
    table["paper"] = table["paper"].astype(float)
    order = [
        table["task"].map(lambda key: names.position(names.TASKS, key)),
        table["task"],
        table["model"].map(lambda key: names.position(names.MODELS, key)),
        table["model"],
        table["target"].map(target_order),
        table["method"].map(registry.position),
        table["method"],
        table["settings"],
    ]
    ranks = pd.concat(order, axis=1, ignore_index=True)
    return table.loc[ranks.sort_values(list(ranks.columns)).index].reset_index(drop=True)


def check_alike(cells: pd.DataFrame) -> None:
    """Check that a table may hold these cells side by side.

    Raises:
        UserError: cells that must agree in a column of `ALIKE` do not, or scores of one dense model differ by more than
            `DENSE_SPREAD`.
    """
    for column, (keys, what) in ALIKE.items():
        known = cells.dropna(subset=column)
        for place, rows in known.groupby(keys, sort=False) if keys else [(("a table",), known)]:
            first = rows.drop_duplicates(column)
            if len(first) > 1:
                one, other = (f"{shown(row[column])} ({cell_name(row)})" for _, row in first.iloc[:2].iterrows())
                raise UserError(f"{' '.join(place)} has cells of two {what}, {one} and {other}: {REMEDY}")
    for (task, model, _), rows in cells.groupby(["task", "model", "checkpoint_sha256"], sort=False):
        low, high = (row for _, row in rows.sort_values("dense_score").iloc[[0, -1]].iterrows())
        if high["dense_score"] - low["dense_score"] > DENSE_SPREAD * abs(high["dense_score"]):
            one, other = (f"{row['dense_score']:.2f} ({cell_name(row)})" for row in (low, high))
            raise UserError(
                f"{task} {model} has two scores of one dense model, {one} and {other}: its cells differ in settings task.*; "
                f"{REMEDY}"
            )


def shown(value) -> str:
    """Return a value as text for a message; a text without spaces, such as a hash, is cut to 12 characters."""
    return f"{value:g}" if isinstance(value, float) else str(value) if " " in str(value) else str(value)[:12]


def informative(table: pd.DataFrame) -> pd.Series:
    """Return which rows can show a loss in points.

    The score of such a row is no perplexity, and the dense model is at least `MARGIN` points above the majority's score.
    A task without classes has no majority's score, and needs no margin.
    """
    in_percent = table["higher_is_better"].astype(bool)
    return in_percent & ~(table["dense_score"] - table["evaluation_majority"] < MARGIN)


def one_version(rows: pd.DataFrame) -> bool:
    """Tell whether all rows of a method come from one version of it: a mean over tasks must not mix two programs."""
    return rows["method_version"].nunique() <= 1


def best_score(rows: pd.DataFrame) -> float:
    """Return the best score among the rows of one task that have the most seeds: the highest, or the lowest perplexity."""
    rows = rows[rows["seeds"] == rows["seeds"].max()]
    return rows["score"].max() if rows["higher_is_better"].iloc[0] else rows["score"].min()


def calibration_budget(table: pd.DataFrame) -> pd.Series:
    """Return the calibration tokens that each row asked for, or that were drawn if it asked for examples or a file."""
    return table["tokens"].astype(float).fillna(table["calibration_tokens"])


def settings(cells: pd.DataFrame) -> pd.Series:
    """Return the variant of each cell, without a calibration budget or a retrained method's schedule that is not compared.

    The budget is left in if cells of one model, method, target and other settings have several budgets, whatever their tasks
    and seeds: then each value in a row of a table, a mean over tasks included, has one budget. The schedule of a retrained
    method is left in if cells of one task have several: a schedule belongs to a task, and stands in `TRAINING`.
    """
    retrained = registry.retrained(cells["method"])
    short = cells["variant"].where(~retrained, cells["variant"].map(only_calibration)).map(without_budget)
    named = pd.Series([with_budget(cell) for cell in cells.itertuples()], cells.index)
    row = [cells[name].to_numpy() for name in ("model", "method")] + [short.to_numpy()]
    place = [cells["target"].to_numpy(), cells["task"].where(retrained, "").to_numpy()]
    several = cells["variant"].groupby([*row, *place]).transform("nunique") > 1
    compared = several.groupby(row).transform("any")
    return named.where(compared, short)


def with_budget(cell) -> str:
    """Return a cell's variant with its calibration budget, even one from the config file; leave a retrained method's unchanged."""
    if registry.group(cell.method) == "retrained":
        return cell.variant
    settings = variant_parts(cell.variant)
    if not set(settings) & {"tokens", "examples"} and not pd.isna(cell.tokens):
        settings["tokens"] = f"{cell.tokens:g}"
    return variant_text(settings)


def masked(table: pd.DataFrame) -> pd.Series:
    """Return which rows set single weights to zero: such a row removes no FLOPs and no unit."""
    return table["target"].map(lambda target: Target.parse(target).is_sparsity).astype(bool)


def target_order(target: str) -> tuple[int, float, int]:
    """Return the sort key of a target: its kind, then its size."""
    return Target.parse(target).order
