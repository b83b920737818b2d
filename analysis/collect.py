"""Collect finished cells into one CSV file to commit: `python -m analysis.collect OUTPUTS results/cells.csv`.

The predictions of K-prune, K-prune+, their presets and the retrained methods are copied into a folder beside the file: cells from
another machine can then be compared with them, and ratios of losses have intervals. Where the score is a perplexity, the
predictions of every method are copied, one number for each window.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import registry
from analysis.pairing import DIFFERENCE, differences, is_reference, predictions, references
from analysis.records import KEY, cell_name, in_order, kept_predictions, load, read_folder
from experiments.store.locks import locked_file
from kprune.errors import command
from kprune.files import OTHER_FOLDER, reachable, write_text, write_whole


def collect(outputs: Path, file: Path) -> tuple[int, int]:
    """Write the finished cells of an output folder to a CSV file, and copy their predictions beside it.

    Earlier cells of the file stay if `outputs` has none with their key. A cell keeps the latencies that the file has of the
    same run. Two processes that write one file take turns.

    Args:
        outputs: output folder of run.py.
        file: CSV file, made if it does not exist.

    Returns:
        The number of cells written from `outputs`, and of earlier cells that stay.

    Raises:
        UserError: `outputs` has no finished cell, or `file` is not a CSV file of cells or not writable.
    """
    cells = read_folder(outputs)
    with locked_file(file, OTHER_FOLDER):
        before = load(file) if file.exists() else cells[:0]
        cells, earlier = with_times(cells, before), kept_of(before, cells)
        both = pd.concat([frame for frame in (cells, earlier) if len(frame)], ignore_index=True)
        both.loc[: len(cells) - 1, DIFFERENCE] = differences(both)[: len(cells)]
        both.loc[outdated(both, len(cells), file), DIFFERENCE] = float("nan")
        compared = (
            registry.ours(cells["method"])
            | registry.retrained(cells["method"])
            | cells["metric"].str.endswith("perplexity")
        )
        write_text(file, in_order(both.drop(columns="predictions")).to_csv(index=False, float_format="%.6g"))
        # Predictions are copied last: if they were new beside an old CSV file, the next call would find no K-prune cell changed,
        # and keep differences that are out of date.
        for _, cell in cells[compared].iterrows():
            keep(cell["predictions"], kept_predictions(file, cell))
    return len(cells), len(earlier)


def with_times(cells: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Return cells with the latencies that `before`, the file's rows, has of the same runs: `make speed-ups` may have timed them again."""
    names = [name for name in cells if name.startswith("latency_")]
    known = {run_of(cell): cell[names] for _, cell in before.iterrows()}
    times = [known.get(run_of(cell), cell[names]) for _, cell in cells.iterrows()]
    return cells.assign(**pd.DataFrame(times, index=cells.index).astype(cells.dtypes[names]))


def run_of(cell: pd.Series) -> tuple:
    """Return what identifies a run: the cell's key and its pruning seconds, rounded as in the file. No two runs take equally long."""
    return (*cell[list(KEY)], f"{cell['pruning_seconds']:.6g}")


def kept_of(before: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `before`, the file's, whose keys are not among those of `cells`."""
    new = set(cells[list(KEY)].itertuples(index=False, name=None))
    return before[[key not in new for key in before[list(KEY)].itertuples(index=False, name=None)]]


def outdated(both: pd.DataFrame, new: int, file: Path) -> list[int]:
    """Return the positions of earlier cells that were compared with a K-prune cell whose predictions have changed since.

    Each is named on stderr.

    Args:
        both: `new` new cells, then the earlier ones; these can't be compared again, since most methods' predictions are not kept.
        new: number of new cells.
        file: the CSV file, beside which K-prune's former predictions lie.
    """
    changed = [
        position
        for position, cell in both.iloc[:new].iterrows()
        if is_reference(cell["method"], cell["variant"]) and not same(cell["predictions"], kept_predictions(file, cell))
    ]
    found = [
        position
        for position, reference in enumerate(references(both))
        if position >= new and reference in changed and not pd.isna(both[DIFFERENCE[0]].iloc[position])
    ]
    for position in found:
        print(
            f"{cell_name(both.iloc[position])} loses its interval: the K-prune cell it was compared with has changed; collect it again",
            file=sys.stderr,
        )
    return found


def same(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same predictions; False if one is missing or damaged."""
    ours, theirs = predictions(one), predictions(other)
    if ours is None or theirs is None or ours.keys() != theirs.keys():
        return False
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def keep(ours: Path, kept: Path) -> None:
    """Copy a cell's predictions to the file `kept`; if they are missing or damaged, remove an earlier cell's from there."""
    if predictions(ours):
        write_whole(kept, partial(shutil.copyfile, ours))
    else:
        kept.unlink(missing_ok=True)


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.collect", description=__doc__.split(":")[0])
    parser.add_argument("outputs", type=reachable, help="output folder of run.py")
    parser.add_argument("file", type=reachable, help="CSV file")
    arguments = parser.parse_args()
    new, kept = collect(arguments.outputs, arguments.file)
    print(f"{arguments.file}: {new} cells of {arguments.outputs}, {kept} kept from before")


if __name__ == "__main__":
    sys.exit(main())
