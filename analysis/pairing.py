"""Pair each cell with the K-prune cell that it is compared with."""

import sys
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.bootstrap import difference, over_seeds
from analysis.bootstrap import differences as resampled
from analysis.variants import asked_tokens, only_calibration

REFERENCES = ("kprune_two_lambdas", "kprune")
"""Methods that cells are compared with: K-prune with the better of two λ, as in its paper; if it was not run, K-prune with one λ."""
DIFFERENCE = ["against_kprune", "against_kprune_low", "against_kprune_high"]


def differences(cells: pd.DataFrame) -> pd.DataFrame:
    """Return each cell's score minus that of its K-prune cell, with the 95 % interval, in points: the columns `DIFFERENCE`.

    A row is NaN if the cell has no K-prune cell beside it or is that cell, if predictions of one of the two are missing, or if
    the score is a perplexity, whose differences are no points.

    Args:
        cells: rows of `analysis.records`, with the path of each cell's `predictions`.
    """
    read = lru_cache(maxsize=64)(predictions)
    rows = []
    for position, reference in enumerate(references(cells)):
        rows.append([np.nan] * 3)
        metric = cells["metric"].iloc[position]
        if reference is None or reference == position or metric.endswith("perplexity"):
            continue
        ours, theirs = (read(cells["predictions"].iloc[row]) for row in (position, reference))
        if ours and theirs and of_the_same(ours, theirs):
            rows[-1] = difference(metric, ours["values"], theirs["values"], ours.get("gold"), ours.get("groups"))
    return pd.DataFrame(rows, columns=DIFFERENCE, index=cells.index, dtype=float)


def references(cells: pd.DataFrame) -> list[int | None]:
    """Return the position of the K-prune cell that each cell is compared with; None if there is none.

    Both have the same task, model, checkpoint, evaluation examples, metric, target and seed. The K-prune cell is of the first
    method of `REFERENCES` that has one; a cell of such a method is compared with a cell of its own method. Of several K-prune
    cells, the one with the cell's own calibration settings counts; if there is none, as for a method that was given another
    budget, the one with the most tokens.
    """
    same = ["task", "model", "metric", "target", "seed", "checkpoint_sha256", "evaluation_sha256"]
    keys = list(cells[same].fillna("").itertuples(index=False, name=None))
    candidates: dict[tuple, dict[str, int]] = {}
    for position, (key, method, variant) in enumerate(zip(keys, cells["method"], cells["variant"], strict=True)):
        if is_reference(method, variant):
            candidates.setdefault((key, method), {})[variant] = position
    found = []
    for key, method, variant in zip(keys, cells["method"], cells["variant"], strict=True):
        among = (method,) if method in REFERENCES else REFERENCES
        by_calibration = next((candidates[key, name] for name in among if (key, name) in candidates), {})
        most = max(by_calibration, key=asked_tokens, default=None)
        found.append(by_calibration.get(only_calibration(variant), by_calibration.get(most)))
    return found


def is_reference(method: str, variant: str) -> bool:
    """Tell whether other cells are compared with a cell: its method is in `REFERENCES`, and only calibration settings were changed."""
    return method in REFERENCES and variant == only_calibration(variant)


def paired_draws(ours: pd.Series, theirs: pd.Series) -> np.ndarray | None:
    """Return the difference of two rows of `analysis.aggregate`, ours minus theirs, as the mean over the seeds that both have.

    Returns:
        The measured difference, then that of each resample of items and seeds: [1 + RESAMPLES]. In points; for perplexities,
        100 times the difference of their logarithms. None if the rows have no seed in common, or if a cell's predictions were
        not kept or have another shape.
    """
    seeds = common_seeds(ours, theirs)
    read = [
        [predictions(path) for seed, path in zip(row["seed_numbers"], row["predictions"], strict=True) if seed in seeds]
        for row in (ours, theirs)
    ]
    if not seeds or any(arrays is None for arrays in (*read[0], *read[1])):
        return None
    if not all(map(of_the_same, *read)):
        return None
    draws = [
        resampled(ours["metric"], one["values"], other["values"], one.get("gold"), one.get("groups"))
        for one, other in zip(*read, strict=True)
    ]
    return over_seeds(np.stack(draws))


def common_seeds(ours: pd.Series, theirs: pd.Series) -> set[int]:
    """Return the seeds that two rows of `analysis.aggregate` both have."""
    return set(ours["seed_numbers"]) & set(theirs["seed_numbers"])


def of_the_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Tell whether the predictions of two cells have one shape; in a file that was changed by hand they may not."""
    return ours["values"].shape == theirs["values"].shape


def predictions(path: Path) -> dict[str, np.ndarray] | None:
    """Read the arrays of a cell's predictions: `values` and, if they were written, `dense`, `gold` and `groups`.

    Returns:
        The arrays by name; None if the file is missing, as for old cells, or damaged. A damaged file is named on stderr.
    """
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:
            return {"values": arrays["values"], **arrays}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        print(f"{path} is damaged ({type(error).__name__}): its cell is shown without an interval", file=sys.stderr)
        return None
